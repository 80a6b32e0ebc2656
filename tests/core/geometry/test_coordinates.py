"""A box comes back from any convention as exactly as its rounding allows; text is read as it was written, what cannot
be read is told, and Griffon's published text to the letter."""

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.errors import RecipeError
from mmcore.geometry.box_text import GRAMMARS, BoxJson, BoxText, read_rate, rewrite, unlike_itself
from mmcore.geometry.coordinates import CONVENTIONS, Convention, convention

SIDES = st.integers(2, 3000)
GRIFFON = GRAMMARS["three decimals"]
NAMES = st.text(string.ascii_letters + " -'é狗", min_size=1, max_size=12).filter(lambda name: name.strip())
ALL = [
    *CONVENTIONS.values(),
    *(
        Convention(layout=layout, scale=scale, decimals=decimals, frame=frame)
        for layout in ("xyxy", "xywh", "cxcywh", "yxyx")
        for scale, decimals in ((None, 1), (1.0, 3), ((756.0, 1008.0), 0))
        for frame in ("image", "centred", "cornered")
    ),
]


@st.composite
def boxes(draw) -> tuple[np.ndarray, tuple[int, int]]:
    """Boxes inside an image, and its height and width."""
    height, width = draw(SIDES), draw(SIDES)
    fractions = draw(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
    corners = np.array(fractions) * (width, height, width, height)
    return np.concatenate((np.minimum(*np.split(corners, 2, 1)), np.maximum(*np.split(corners, 2, 1))), 1), (
        height,
        width,
    )


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.layout}-{one.scale}-{one.decimals}-{one.frame}")
@settings(max_examples=15, deadline=None)
@given(given=boxes())
def test_a_box_comes_back_within_the_stated_error(one: Convention, given):
    corners, size = given
    back = one.to_pixels(one.from_pixels(corners, size), size)
    allowed = np.array(one.max_error(size) * 2) + 1e-9 * max(size)
    assert (np.abs(back - corners) <= allowed).all()


@pytest.mark.parametrize("one", ALL[:8], ids=list(CONVENTIONS))
@settings(max_examples=15, deadline=None)
@given(given=boxes())
def test_what_was_written_once_is_written_the_same_again(one: Convention, given):
    corners, size = given
    numbers = one.from_pixels(corners, size)
    again = one.from_pixels(one.to_pixels(numbers, size), size)
    np.testing.assert_allclose(again, numbers, rtol=0, atol=1e-9 * max(size))


def test_the_stated_error_is_reached_so_it_is_no_mere_upper_bound():
    size = (1000, 1000)
    for one in (CONVENTIONS["three decimals"], Convention(layout="xywh", scale=1000.0, decimals=0)):
        near = np.array([[100.499, 100.499, 700.998, 700.998]])
        off = np.abs(one.to_pixels(one.from_pixels(near, size), size) - near).max()
        assert 0.9 * one.max_error(size)[0] < off <= one.max_error(size)[0]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("pixels", (10, 20, 110, 70)),
        ("xywh pixels", (10, 20, 100, 50)),
        ("cxcywh fractions", (60 / 400, 45 / 200, 100 / 400, 50 / 200)),
        ("fractions", (10 / 400, 20 / 200, 110 / 400, 70 / 200)),
        ("three decimals", (0.025, 0.1, 0.275, 0.35)),
        # The picture lies 100 pixels below the top of its square of 400.
        ("padded fractions", (0.03, 0.3, 0.28, 0.42)),
        ("thousandths", (25, 100, 275, 350)),
        ("yxyx thousandths", (100, 25, 350, 275)),
    ],
)
def test_one_box_in_every_named_convention(name, numbers):
    written = convention(name).from_pixels(np.array([[10.0, 20.0, 110.0, 70.0]]), (200, 400))
    np.testing.assert_allclose(written, [numbers], atol=0.0051 if name == "padded fractions" else 1e-12)
    assert set(CONVENTIONS) == {
        "pixels", "xywh pixels", "cxcywh fractions", "fractions", "three decimals", "padded fractions", "thousandths",
        "yxyx thousandths",
    }  # fmt: skip


def test_what_leaves_the_image_is_cut_off_and_a_box_beside_it_has_no_place():
    one, size = CONVENTIONS["three decimals"], (100, 200)
    numbers = one.from_pixels(
        np.array([[-50.0, 10, 50, 300], [0, 20, 0.05, 40], [-9, 0, -3, 50], [60, 5, 60, 9]]), size
    )
    np.testing.assert_allclose(numbers[0], (0, 0.1, 0.25, 1))
    assert one.has_place(numbers, size).tolist() == [True, False, False, True]
    assert one.has_place(numbers[:0], size).shape == (0,)


def test_resized_pixels_may_stretch_the_sides_differently():
    one = Convention(scale=(50.0, 100.0))
    np.testing.assert_allclose(one.to_pixels(np.array([[10.0, 10, 50, 50]]), (200, 200)), [[20, 40, 100, 200]])


def test_an_unknown_convention_names_the_nearest():
    with pytest.raises(RecipeError, match="xywh pixel") as caught:
        convention("xywh pixel", where="shelves.yaml")
    assert "xywh pixels" in str(caught.value)


# ---- text ----


@pytest.mark.parametrize("name", GRAMMARS)
@settings(max_examples=20, deadline=None)
@given(given=boxes(), words=st.lists(NAMES, min_size=5, max_size=5))
def test_every_answer_is_read_back(name, given, words):
    corners, size = given
    assert unlike_itself(GRAMMARS[name], corners, size, words[: len(corners)]) is None
    assert unlike_itself(GRAMMARS[name], corners, size) is None


@pytest.mark.parametrize("name", GRAMMARS)
@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from('[]<>(),.0123456789-&{}": abbox_2d\n'), max_size=60))
def test_no_text_breaks_the_reader(name, text):
    reading = GRAMMARS[name].read(text, (100, 200))
    assert np.isfinite(reading.boxes_xyxy).all()
    for one in reading.found:
        assert 0 <= one.start < one.end <= len(text)


@pytest.mark.parametrize("name", GRAMMARS)
def test_an_answer_that_was_cut_short_keeps_its_whole_boxes_and_tells_the_rest(name):
    grammar = GRAMMARS[name]
    text = grammar.write(np.array([[10.0, 20, 50, 60], [30, 5, 90, 80]]), (100, 200), ["a cat", "a dog"]).text
    last = max(i for i, letter in enumerate(text) if letter.isdigit())
    if grammar.__class__ is BoxJson:
        last = text.rindex("]}" if "]}" in text else "], ")
    reading = grammar.read(text[: last - 1], (100, 200))
    assert len(reading.found) == 1
    assert len(reading.unread) == 1
    assert read_rate([reading, grammar.read(text, (100, 200))]) == pytest.approx(3 / 4)


def test_texts_without_boxes_lose_nothing():
    assert read_rate([GRIFFON.read("There is nothing - at all & no box.", (9, 9))]) == 1.0
    assert read_rate([]) == 1.0


def test_a_turned_around_box_is_unread():
    reading = GRIFFON.read("cat-[0.500,0.100,0.200,0.300]&dog-[0.1,0.2,0.3,0.4]", (100, 100))
    assert not reading.found
    assert reading.unread == ("cat-[0.500,0.100,0.200,0.300]", "[0.1,0.2,0.3,0.4]")


def test_a_name_that_breaks_the_grammar_is_found_out():
    square = np.array([[10.0, 10, 40, 40]])
    assert "comes back as" in str(unlike_itself(GRIFFON, square, (100, 100), ["salt & pepper"]))
    assert unlike_itself(GRAMMARS["json thousandths"], square, (100, 100), ["salt & pepper"]) is None


def test_json_has_scores_and_may_stand_in_a_code_block():
    text = 'Here:\n```json\n[{"bbox_2d": [100, 0, 200, 500], "label": "cup", "score": 0.75}]\n```'
    (one,) = GRAMMARS["json thousandths"].read(text, (100, 1000)).found
    assert (one.box_xyxy, one.name, one.score) == ((100.0, 0.0, 200.0, 50.0), "cup", 0.75)
    fenced = BoxJson(convention=CONVENTIONS["thousandths"], fence=True)
    assert unlike_itself(fenced, np.array([[1.0, 2, 3, 4]]), (10, 10), ['a "quoted" name']) is None


def test_a_text_is_rewritten_from_one_grammar_to_another():
    said = "Look at <ref>the dog</ref><box>(10,200),(500,1000)</box>, please."
    assert rewrite(said, GRAMMARS["qwen"], GRIFFON, (480, 640)) == "Look at the dog-[0.010,0.200,0.500,1.000], please."
    llava = rewrite("A cat at [0.10, 0.25, 0.30, 0.75].", GRAMMARS["brackets"], GRAMMARS["qwen"], (50, 100))
    assert llava == "A cat at <box>(100,0),(300,1000)</box>."


def test_griffons_published_text_to_the_letter(shared):
    """The boxes of `boxes_text`, already in the frame of its square images, where rounding is published."""
    case = json.loads((shared / "goldens/griffon/boxes_text/case.json").read_text())
    round_brackets = BoxText(convention=GRIFFON.convention, box="({0},{1},{2},{3})")
    thousandths = Convention(scale=1000.0, decimals=0)
    bins = BoxText(convention=thousandths, box="<bin_{0}><bin_{1}><bin_{2}><bin_{3}>")
    for one in case["format_cases"]:
        sorted_boxes, in_order = (np.array(one[key], np.float64) for key in ("reordered", "resized"))
        square, nearly = (1022, 1022), (one["resized_height"], one["resized_width"])
        for key, grammar, corners, size, names in (
            ("det_text", GRIFFON, sorted_boxes, square, one["reordered_names"]),
            ("vg_text", GRIFFON, in_order, nearly, one["names"]),
            ("small_text", round_brackets, sorted_boxes, square, one["reordered_names"]),
            ("bin_text", bins, sorted_boxes, square, one["reordered_names"]),
        ):
            written = grammar.write(corners, size, names)
            # Where nothing is left the published code prints a Python list.
            assert (written.text if written.rows else "['None']") == one[key]
        expected = [found["bbox"] for found in one["extract_det"]]
        np.testing.assert_allclose(GRIFFON.read(one["det_text"], (1, 1)).boxes_xyxy, np.reshape(expected, (-1, 4)))


def test_griffons_published_reading(shared):
    """Names apart: the published reader keeps what follows the last hyphen, ours the whole name."""
    case = json.loads((shared / "goldens/griffon/boxes_text/case.json").read_text())
    for one in case["extract_cases"]:
        found = GRIFFON.read(one["text"], (1, 1)).found
        assert [list(box.box_xyxy) for box in found] == [expected["bbox"] for expected in one["extract"]]
        names = [(box.name or "target").rsplit("-", 1)[-1] for box in found]
        assert names == [expected["category_name"] for expected in one["extract"]]
