"""Boxes as text: what is written can be read, what is read is scored, and every convention users bring comes back."""

import json
import math
import struct

import numpy as np
import pytest
from mmcore.geometry.coordinates import CONVENTIONS, convention
from mmcore.language.confidence import Marks, confidence
from mmcore_griffon.answers import BOXES, extract, marks, read, says_nothing, unreadable, write
from safetensors.numpy import load_file

SIZE, SIDE = (480, 640), 1022


def test_the_published_text_and_scores_to_the_letter(shared) -> None:
    folder = shared / "goldens/griffon/boxes_text"
    case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
    for one in case["format_cases"]:
        size = (one["height"], one["width"])
        assert write(one["boxes"], size, SIDE, one["names"], from_left=True).text == one["det_text"]
        assert write(one["boxes"], size, SIDE, one["names"]).text == one["vg_text"]
        assert f"What is {write(one['boxes'], size, SIDE).text}?" == one["reg_text"]
    for one in (
        *case["extract_cases"],
        *({"text": f["det_text"], "extract": f["extract_det"]} for f in case["format_cases"]),
    ):
        found = [{"category_name": name, "bbox": list(box)} for name, box in extract(one["text"])]
        assert found == one["extract"]
    for one in case["score_cases"]:
        ids, table = stored[f"ids{one['index']}"][0], stored[f"probs{one['index']}"]
        found = confidence(ids.tolist(), table.max(1).tolist(), Marks(one["start_token"], one["end_token"]))
        np.testing.assert_allclose(found, one["scores"], rtol=0, atol=1e-6)


def test_whole_numbers_are_cut_and_fractions_are_not() -> None:
    assert write([[1, 1, 300, 300]], SIZE, 100, ["a"]).text == "a-[0.000,0.000,0.460,0.620]"
    assert write([[1.0, 1, 300, 300]], SIZE, 100, ["a"]).text == "a-[0.002,0.002,0.469,0.625]"


def number(value: float, side: float) -> str:
    return f"{round(min(max(value / side, 0.0), 1.0), 3):.3f}"


def by_the_rule(boxes: list[list[float]], width: int, height: int, side: int, *, from_left: bool) -> list[str]:
    """Reference 6.2, number by number: into the frame of the square, whole numbers cut, sorted in single precision."""
    whole = all(type(value) is int for box in boxes for value in box)
    framed = [[value * (side / (width, height)[axis % 2]) for axis, value in enumerate(box)] for box in boxes]
    framed = [[int(value) for value in box] for box in framed] if whole else framed
    ends = [width * (side / width), height * (side / height)]
    if from_left:
        framed = [[struct.unpack("f", struct.pack("f", value))[0] for value in box] for box in framed]
        framed, ends = sorted(framed, key=lambda box: box[0]), [side, side]
    texts = [[number(value, ends[axis % 2]) for axis, value in enumerate(box)] for box in framed]
    flat = [any(text[axis] == text[axis + 2] in ("0.000", "1.000") for axis in (0, 1)) for text in texts]
    return [f"[{','.join(text)}]" for text, left_out in zip(texts, flat, strict=True) if not left_out]


@pytest.mark.parametrize("kind", ["whole", "fractions", "mixed", "edges"])
@pytest.mark.parametrize("from_left", [True, False])
def test_text_follows_the_published_rule_whatever_the_boxes(kind: str, from_left: bool) -> None:
    rng = np.random.default_rng(7)
    for _ in range(300):
        side, (width, height) = int(rng.choice([35, 448, 1022])), rng.integers(1, 3000, 2).tolist()
        corners = np.sort(rng.uniform(-1, 1, (int(rng.integers(1, 6)), 2, 2)), axis=1) * 0.6 + 0.5
        boxes = (corners * (width, height)).reshape(-1, 4)
        boxes = np.clip(boxes, 0, (width, height) * 2) if kind == "edges" else boxes
        given = boxes.tolist() if kind in ("fractions", "edges") else np.rint(boxes).astype(int).tolist()
        given[0][1] = float(given[0][1]) if kind == "mixed" else given[0][1]
        expected = "&".join(by_the_rule(given, width, height, side, from_left=from_left)) or "['None']"
        assert write(given, (height, width), side, from_left=from_left).text == expected


def test_answers_from_the_left_name_their_rows() -> None:
    boxes = [[300.0, 10, 400, 20], [0.0, 0, 0.1, 480], [20.0, 10, 30, 40]]
    answer = write(boxes, SIZE, SIDE, ["b", "edge", "a"], from_left=True)
    assert answer.rows == (2, 0), "a box on the edge is left out"
    assert answer.text.startswith("a-[0.031")
    assert write([], SIZE, SIDE, []).text == "None"
    assert write(boxes[1:2], SIZE, SIDE).text == "['None']"


@pytest.mark.parametrize(
    ("text", "names", "boxes"),
    [
        ("t-shirt-[0.100,0.200,0.300,0.400]&a b-[0.500,0.500,0.600,0.600]", ("t-shirt", "a b"), 2),
        ("[0.100,0.200,0.300,0.400]", ("target",), 1),
        ("cup-[0.900,0.100,0.200,0.300]&cat-[0.1", (), 0),
        ("None", (), 0),
    ],
)
def test_reading_keeps_whole_names_and_tells_what_it_cannot_read(text, names, boxes) -> None:
    found = read(text, SIZE, [0.5, 0.25])
    assert found.get("names", ()) == names
    assert len(found.get("boxes_xyxy", ())) == boxes
    assert bool(found["unread"]) == ("0.900" in text)
    assert [text[p.start : p.end] for p in found.get("phrases", ())] == text.split("&")[:boxes]


def test_a_confidence_belongs_to_the_place_of_its_box() -> None:
    found = read(
        "a-[0.900,0.100,0.200,0.300]&b-[0.100,0.100,0.200,0.300]&c-[0.100,0.100,0.200,0.300]", SIZE, [0.9, 0.5]
    )
    assert found["names"] == ("b", "c")
    assert found["scores"].tolist() == [0.5, 0.0]
    assert found["measures"]["confidence"] == (0.9, 0.5)


def test_the_published_reader_gives_up_on_a_piece_with_words_behind_its_box() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        extract("cat-[0.100,0.200,0.300,0.400] and more&dog-[0.100,0.200,0.300,0.400]")
    assert says_nothing(" ['None'] ")
    assert not says_nothing("nothing")


def test_marks_are_the_published_ones_where_a_vocabulary_has_them() -> None:
    assert marks({"]&": 200348, "-[": 50648, "&": 1, "-": 2}) == Marks(200348, 50648)
    assert marks({"&": 29987, "-": 29899, "]&": 5}) == Marks(29987, 29899)
    assert marks({"a": 1}) is None


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("resized", [False, True])
def test_every_convention_that_users_bring_comes_back(name: str, resized: bool) -> None:
    """Their numbers to pixels, to Griffon's text, back to pixels, to their numbers: off by the decimals alone."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 1, (50, 2, 2)) * (SIZE[1], SIZE[0])
    given = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    theirs = convention(name)
    if resized and theirs.scale is None:
        pytest.skip("its numbers are pixels of the picture as it is")
    size = (SIZE[0] * 2, SIZE[1] * 2) if resized else SIZE
    scaled = given * 2 if resized else given
    pixels = theirs.to_pixels(theirs.from_pixels(scaled, size), size)
    answer = write(pixels.tolist(), size, SIDE)
    back = BOXES.read(answer.text, size).boxes_xyxy
    allowed = np.array(BOXES.convention.max_error(size) * 2) + np.array(theirs.max_error(size) * 2) + 1e-6
    assert (np.abs(back - scaled[list(answer.rows)]) <= allowed).all()
    assert len(answer.rows) == len(given)


@pytest.mark.parametrize(
    ("boxes", "names", "why"),
    [
        ([[10.0, 10, 50, 50]], ["cat"], None),
        ([[10, 10, 50, 50]], ["t-shirt"], None),
        ([], [], None),
        ([[10.0, 10, 50, 50]], ["salt & pepper"], "comes back as"),
        ([[10.0, 10, 50, 50]], ["a-[0.1"], "comes back as"),
        ([[10.0, 10, 50, 50]], ["cat-[0.100,0.100,0.200,0.200]"], "can be read"),
    ],
)
def test_an_answer_that_cannot_be_read_back_says_why(boxes, names, why) -> None:
    found = unreadable(boxes, SIZE, SIDE, names)
    assert (found is None) if why is None else (why in found)


def test_an_answer_of_many_boxes_reads_back_whole() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (300, 2, 2)), axis=1).reshape(-1, 4) * (640, 480, 640, 480)
    assert unreadable(corners.tolist(), SIZE, SIDE, [f"thing {i % 7}" for i in range(300)]) is None
    assert math.isfinite(corners.sum())
