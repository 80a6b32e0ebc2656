"""Strips of validation pictures: always the same records, and the same places from one step to the next."""

from pathlib import Path

import numpy as np
import pytest
from mmcore.show import strip
from mmcore.show.detection import draw_detection, largest, seen
from PIL import Image

COLOURS = [(200, 10 * number, 30) for number in range(strip.RECORDS)]


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (90, 60), colour)


@pytest.mark.parametrize("total", [1, 3, 16, 17, 5000])
def test_the_records_of_a_strip_are_spread_and_stay_the_same(total: int) -> None:
    found = strip.positions(total)
    assert found == strip.positions(total)
    assert len(set(found)) == min(total, strip.RECORDS)
    assert min(found) == 0
    assert max(found) < total
    assert max(found) >= total * (1 - 2 / strip.RECORDS) - 1


@pytest.mark.parametrize("count", [1, 4, 5, 16])
@pytest.mark.parametrize("words", [False, True])
def test_steps_stand_side_by_side_record_by_record(tmp_path: Path, count: int, words: bool) -> None:
    strips = []
    for step in range(3):
        cells = [strip.cell(f"{n}", plain((step * 80, *COLOURS[n][1:])), plain(COLOURS[n])) for n in range(count)]
        strip.sheet(cells, f"step {step}").save(tmp_path / f"{step}.png")
        strips.append((f"step {step}", tmp_path / f"{step}.png"))
    whole = np.asarray(strip.over_time(strips, words=words, records=6))
    rows = min(count, 6)
    middle = strip.SIDE // 2
    for row in range(rows):
        y = whole.shape[0] - (rows - row) * (strip.SIDE + 8) + middle
        centres = [tuple(whole[y, 8 + column * (strip.SIDE + 8) + middle].tolist()) for column in range(4)]
        changing = [(step * 80, *COLOURS[row][1:]) for step in range(3)]
        if words:  # the picture is the left half of the last; the right half is what was said
            assert centres == [changing[-1], *[COLOURS[row]] * 3]
        else:
            assert centres == [*changing, COLOURS[row]]


def test_answers_of_any_length_and_script_fit_their_half() -> None:
    for text in ("", "yes", "word " * 500, "x" * 900, "Что это? Ποιο; 这是什么"):
        assert strip.said(text, text, text).size[1] == strip.SIDE


def test_classes_without_anything_are_not_drawn_and_many_are_summed() -> None:
    counts = np.zeros((41, 41), np.int64)
    counts[np.arange(30), np.arange(30)] = np.arange(1, 31)
    counts[3, 40] = counts[40, 5] = 2
    names = [f"c{number}" for number in range(40)]
    kept, left = seen(counts, names)
    assert left == names[:30]
    summed, shown = largest(kept, left, 10)
    assert shown == [*(f"c{number}" for number in range(21, 30)), "21 others"]
    assert summed.sum() == counts.sum()
    assert summed[9, 10] == 2
    assert summed[10, 9] == 2


def test_pictures_of_a_detector_are_drawn_of_whatever_it_left(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    curve = {"recall": [0, 0.5, 1], "precision": {"0.5": [1, 0.5, 0], "0.5:0.95": [0.5, 0.2, 0]}}
    names = ["猫 of $5 and $6", "\U0010fffd"]  # what a figure would set as a formula, and what no font has
    confusion = {"classes": names, "counts": [[3, 1, 0], [2, 0, 1], [1, 1, 0]], "score": 0.3, "overlap": 0.5}
    import json

    path.write_text(json.dumps({"bbox": curve, "segm": {}, "confusion": confusion}))
    assert [one.name for one in draw_detection(path, tmp_path)] == ["precision-recall.png", "confusion.png"]
    path.write_text(json.dumps({"bbox": {}, "confusion": None}))
    assert draw_detection(path, tmp_path) == []
