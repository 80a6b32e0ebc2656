"""Grounded captions: pairs of masks and phrases are matched best first, and figures are what they are called."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmcore.contract.values import Phrase, Prediction
from mmcore.errors import DataError
from mmcore.evaluate.given_answers import mask_figures, overlap
from mmcore.evaluate.grounded_captions import GroundedCaptionEvaluator, by_words, iou_matrix, matches, mean_iou
from mmcore.geometry import masks


def rle(*rows: int) -> dict:
    bitmap = np.zeros((8, 8), np.uint8)
    bitmap[list(rows)] = 1
    return masks.encode(bitmap)


def test_overlaps_are_intersection_over_union():
    found = iou_matrix([rle(0, 1), rle(5)], [rle(1, 2), rle(5)])
    np.testing.assert_allclose(found, [[1 / 3, 0], [0, 1]])
    assert iou_matrix([], [rle(1)]).shape == (0, 1)
    with pytest.raises(DataError, match="predicted masks are"):
        iou_matrix([rle(0)], [masks.encode(np.ones((4, 4), np.uint8))])


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [([[0.9, 0.8], [0.8, 0.1]], (0.9 + 0.1) / 2), ([[0.0, 0.5]], 0.5), ([[0.0]], 0.0), ([], 0.0)],
)
def test_the_best_pair_is_taken_first(overlaps, expected):
    given = np.array(overlaps, np.float64)
    before = given.copy()
    assert mean_iou(given) == pytest.approx(expected)
    np.testing.assert_array_equal(given, before)


def test_a_pair_needs_both_its_masks_and_its_phrases_to_fit():
    overlaps, alike = np.array([[0.9, 0.0], [0.0, 0.7]]), np.array([[1.0, 0.0], [0.0, 0.4]])
    assert matches(overlaps, alike) == [(0, 0)]
    assert matches(overlaps, np.ones((2, 2))) == [(0, 0), (1, 1)]


def test_words_are_compared_as_sets():
    np.testing.assert_allclose(by_words(["a red cup", "a dog"], ["cup a"]), [[2 / 3], [1 / 3]])


def test_a_perfect_answer_has_full_marks(tmp_path: Path):
    said, drawn = tmp_path / "captions.json", tmp_path / "masks.json"
    said.write_text(
        json.dumps({"annotations": [{"image_id": "p", "caption": "a cup and a dog", "labels": ["a cup", "a dog"]}]})
    )
    entries = [{"id": n, "image_id": "p", "segmentation": one} for n, one in enumerate((rle(0, 1), rle(5)), 1)]
    drawn.write_text(json.dumps({"images": [{"id": "p", "height": 8, "width": 8}], "annotations": entries}))
    judge = GroundedCaptionEvaluator(said, drawn, words=True, captioned=False)
    phrases = (Phrase(0, 0, 5, (0,)), Phrase(0, 10, 15, (1,)))
    answer = Prediction("p", (8, 8), text="a cup and a dog", masks=[rle(0, 1), rle(5)], phrases=phrases)
    judge.update(None, [answer])  # type: ignore[arg-type]
    assert judge.summarise(judge.state()) == pytest.approx({"AP50": 1.0, "mIoU": 1.0, "recall_words": 1.0})
    assert set(judge.metric_names) == {"AP50", "mIoU", "recall_words"}


def test_an_empty_mask_that_stays_empty_is_right():
    pairs = np.array([overlap(np.zeros((4, 4)), np.zeros((4, 4))), overlap(np.ones((4, 4)), np.eye(4))])
    assert pairs.tolist() == [[0, 0], [4, 16]]
    assert mask_figures(pairs) == pytest.approx({"gIoU": (1 + 0.25) / 2, "cIoU": 0.25}, rel=1e-4)
