"""What is said about a record: wordings from the banks, marks where boxes and masks belong, nothing lost on the way."""

import pytest
from mmcore.data.chance import Seeded
from mmcore.data.grounded import Grounded, Part
from mmcore.errors import DataError
from mmcore.language.templates import PLACEHOLDER
from mmcore_glamm.answers import read_answer
from mmcore_glamm.data.dialogue import Spoken, marked_caption, speak
from mmcore_glamm.data.manners import Manner
from mmcore_glamm.data.templates import BANKS
from mmcore_glamm.tokens import OVERVIEW

SQUARE = ((2.0, 2.0, 8.0, 2.0, 8.0, 8.0),)
WORDS = {name: bank.wordings for name, bank in BANKS.items()}
CAPTION = "A cat and a dog."
PHRASES = (Part("a dog", None, (SQUARE,), (10, 15)), Part("A cat", None, (SQUARE,), (0, 5)))


def said(manner: Manner, parts: tuple[Part, ...], *, caption: str = "", most: int = 3, seed: int = 0) -> Spoken:
    found = speak(Grounded("a.jpg", 1, parts, caption), manner, most, WORDS, Seeded(seed))
    assert found is not None
    return found


def named(count: int) -> tuple[Part, ...]:
    return tuple(Part(f"Thing {n}", (n, 0.0, n + 9.0, 9.0), (SQUARE,)) for n in range(count))


@pytest.mark.parametrize(
    ("bank", "count"),
    {"caption": 17, "region": 20, "region_group": 30, "gcg": 6, "segment": 16, "answer": 5, "region_intro": 1}.items(),
)
def test_banks_have_the_published_counts_and_placeholders(bank: str, count: int) -> None:
    assert len(BANKS[bank].wordings) == count
    for wording in BANKS[bank].wordings:
        assert sorted(PLACEHOLDER.findall(wording)) == sorted(BANKS[bank].placeholders)


def test_phrases_of_a_caption_are_marked_in_the_order_of_the_text() -> None:
    found = said("gcg", PHRASES, caption=CAPTION)
    assert found.turns[1].text == "<p> A cat </p> [SEG] and <p> a dog </p> [SEG]."
    assert [part.text for part in found.parts] == ["A cat", "a dog"]
    spans = [found.turns[one.turn].text[one.start : one.end] for one in found.phrases()]
    assert spans == ["A cat", "a dog"]
    assert [one.objects for one in found.phrases()] == [(0,), (1,)]


def test_a_mark_that_published_spans_cut_is_a_fault_unless_masks_may_be_cut() -> None:
    parts = (Part("a", None, (SQUARE,), (0, 20)), Part("w", None, (SQUARE,), (5, 6)))
    spoken = said("gcg", parts, caption="one two three four five")
    assert spoken.turns[1].text.count("[SEG]") == 1
    with pytest.raises(DataError, match="holds"):
        spoken.phrases()
    assert len(spoken.phrases(cut=True)) == 1


@pytest.mark.parametrize(
    ("decoded", "shown"),
    [("a 'cat'</s>", "a 'cat"), ("a < b </s>", "a"), ("x ASSISTANT: <p> it </p> [SEG]\n  is", "it is"), ("<p> a", "a")],
)
def test_an_answer_is_read_as_the_published_scripts_read_it(decoded: str, shown: str) -> None:
    assert read_answer(decoded).text == shown


def test_the_marks_can_be_taken_out_again() -> None:
    text = "one two three four"
    marked = marked_caption(text, [(8, 13), (0, 3)])
    assert marked.replace("<p> ", "").replace(" </p> [SEG]", "") == text


@pytest.mark.parametrize(("count", "most", "turns"), [(1, 3, 1), (3, 3, 3), (7, 3, 3), (7, 10**6, 7)])
def test_classes_are_asked_for_one_by_one_and_none_twice(count: int, most: int, turns: int) -> None:
    found = said("segment", named(count), most=most)
    assert len(found.turns) == 2 * turns
    assert len({part.text for part in found.parts}) == turns
    for number, part in enumerate(found.parts):
        assert part.text.lower() in found.turns[2 * number].text
        assert found.turns[2 * number + 1].text.count("[SEG]") == 1
    assert [one.objects for one in found.phrases()] == [(n,) for n in range(turns)]
    assert found.has_masks


def test_parts_of_things_are_called_in_two_ways() -> None:
    names = {said("parts", (Part("dog_(pet):ear_(left)"),), seed=seed).parts[0].text for seed in range(20)}
    assert names == {"dog ear", "the ear of the dog"}
    assert said("parts", (Part("mug_(cup)"),)).parts[0].text == "mug"
    names = {said("named_parts", (Part("dog:ear_(left)"),), seed=seed).parts[0].text for seed in range(20)}
    assert names == {"dog ear_(left)", "the ear_(left) of the dog"}  # as PASCAL-Part's reader leaves them


@pytest.mark.parametrize("manner", ["region", "region_intro", "region_all", "region_group"])
@pytest.mark.parametrize("count", [1, 4, 13])
def test_every_box_of_the_text_is_that_of_its_words(manner: Manner, count: int) -> None:
    found = said(manner, named(count), caption="all of it")
    asked = min(count, 10)
    text = " ".join(turn.text for turn in found.turns)
    assert text.count("<bbox>") == len(found.boxes) == asked * (2 if manner == "region_group" else 1)
    answers = found.turns[-2 * asked + 1 :: 2]
    assert [turn.text for turn in answers] == [part.text for part in found.parts[:asked]]
    assert [one.objects[0] for one in found.phrases()] == list(found.boxes)
    assert not found.has_masks
    assert (OVERVIEW in text) == (manner != "region_intro")


def test_the_group_question_is_answered_by_the_caption() -> None:
    found = said("region_group", named(2), caption="both of them")
    assert "region1 <bbox>,region2 <bbox>," in found.turns[0].text
    assert found.turns[1].text == "both of them"
    assert found.boxes == (0, 1, 0, 1)


def test_an_image_is_shown_once_and_first() -> None:
    for manner in ("gcg", "segment", "region", "region_intro", "region_group", "caption"):
        found = said(manner, PHRASES if manner == "gcg" else named(3), caption=CAPTION)
        counts = [turn.text.count("<image>") for turn in found.turns]
        assert counts == [1, *[0] * (len(counts) - 1)]


def test_the_same_seed_says_the_same_and_nothing_comes_of_nothing() -> None:
    assert said("segment", named(9), seed=4) == said("segment", named(9), seed=4)
    assert said("segment", named(9), seed=4) != said("segment", named(9), seed=5)
    assert speak(Grounded("a.jpg", 1, ()), "segment", 3, WORDS, Seeded(0)) is None


@pytest.mark.parametrize(
    ("manner", "part"),
    [("region", Part("a [SEG]", (0, 0, 1, 1))), ("region", Part("<bbox>", (0, 0, 1, 1))), ("caption", Part("a [SEG]"))],
)
def test_an_annotation_that_holds_a_mark_is_refused(manner: Manner, part: Part) -> None:
    with pytest.raises(DataError, match="own text holds"):
        said(manner, (part,)).phrases()
