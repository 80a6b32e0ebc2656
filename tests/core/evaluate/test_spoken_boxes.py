"""Boxes in answers of words: what counts as a hit, a recall, a count, and as an answer that was read."""

import json

import pytest
from mmcore.evaluate.short_answers import alike, is_yes, nearly
from mmcore.evaluate.spoken_boxes import Counts, Expressions, Phrases, Truth

SIZE = (100, 200)


def read(text: str) -> list[list[float]] | None:
    """JSON lists of boxes; an empty one says that there is nothing."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def items(*texts: str) -> list[dict]:
    return [{"record_id": number, "image_id": number, "text": text} for number, text in enumerate(texts)]


def truths(*boxes: list[tuple[float, ...]]) -> list[Truth]:
    return [Truth(number, "it", tuple(several), SIZE) for number, several in enumerate(boxes)]  # type: ignore[arg-type]


def test_the_first_box_decides_and_half_an_overlap_is_no_hit() -> None:
    one = (0.0, 0.0, 100.0, 50.0)
    judge = Expressions(truths([one], [one], [one], [one]), read)
    said = items("[[0, 0, 0.5, 0.5]]", "[[0, 0, 0.25, 0.5]]", "[[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]]", "in the corner")
    figures = judge.summarise(said)
    assert (figures["accuracy@0.5"], figures["parse_rate"], figures["chance"]) == (0.25, 0.75, 1.0)
    assert judge.summarise([*said, *said]) == figures, "an answer that two processes have counts once"
    assert judge.results(said)[0]["boxes"] == [[0.0, 0.0, 100.0, 50.0]]


def test_chance_is_the_box_that_is_right_most_often() -> None:
    left, right = (0.0, 0.0, 50.0, 50.0), (150.0, 0.0, 200.0, 50.0)
    assert Expressions(truths([left], [left], [right]), read).summarise(items("[]", "[]", "[]"))[
        "chance"
    ] == pytest.approx(2 / 3)


def test_phrases_go_by_any_box_or_by_all_together() -> None:
    two = [(0.0, 0.0, 50.0, 50.0), (150.0, 0.0, 200.0, 50.0)]
    judge = Phrases(truths(two, two, []), read)
    figures = judge.summarise(items("[[0.75, 0, 1, 0.5]]", "[[0, 0, 1, 0.5]]", "[]"))
    assert (figures["any"], figures["merged"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_counts_are_numbers_of_boxes() -> None:
    judge = Counts(truths([(0.0, 0.0, 1.0, 1.0)] * 2, [(0.0, 0.0, 1.0, 1.0)] * 4), read)
    figures = judge.summarise(items("[]", "[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]"))
    assert (figures["MAE"], figures["RMSE"]) == (1.5, pytest.approx(2.5**0.5))
    assert (figures["NAE"], figures["SRE"]) == (pytest.approx(0.625), pytest.approx((2.25 / 2) ** 0.5))


def test_short_answers_have_their_own_rules() -> None:
    assert (nearly("105", ["100"]), nearly("94.9", ["100"]), nearly("5%", ["0.05"])) == (1.0, 0.0, 1.0)
    assert alike("Jon Smth", ["john smith"]) == pytest.approx(0.8)
    assert alike("abc", ["xyz"]) == 0.0
    assert [is_yes(text) for text in ("Yes, there is.", "No.", "\nIt is not here")] == [True, False, False]
