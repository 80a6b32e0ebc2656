"""Which class was taken for which: every true object and every sure detection counts once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from mmcore.evaluate.confusion import SCORE, confusion, overlaps

IDS = [7, 3]
BOX = [10.0, 10.0, 20.0, 20.0]


def counted(true: list[dict], found: list[dict]) -> list[list[int]]:
    return confusion({1: true}, {1: found}, [1, 2], IDS).tolist()


def object_(category: int, box: list[float] = BOX, crowd: int = 0) -> dict:
    return {"category_id": category, "bbox": box, "iscrowd": crowd}


def detection(category: int, box: list[float] = BOX, score: float = 0.9) -> dict:
    return {"category_id": category, "bbox": box, "score": score}


def test_right_wrong_missed_and_invented() -> None:
    assert counted([object_(7)], [detection(7)]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert counted([object_(7)], [detection(3)]) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert counted([object_(3)], []) == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert counted([], [detection(3)]) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert counted([object_(7)], [detection(7, score=SCORE / 2)]) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert counted([object_(7)], [detection(7, [200.0, 10.0, 20.0, 20.0])]) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_the_largest_overlap_is_paired_first_and_a_second_detection_found_nothing() -> None:
    near, nearer = [12.0, 10.0, 20.0, 20.0], [11.0, 10.0, 20.0, 20.0]
    assert counted([object_(7)], [detection(3, near), detection(7, nearer)]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_crowds_are_neither_missed_nor_forbidden() -> None:
    crowd = object_(7, [0.0, 0.0, 100.0, 100.0], crowd=1)
    assert np.sum(counted([crowd], [detection(7)])) == 0
    assert np.sum(counted([crowd], [])) == 0


boxes = st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 60)] * 2, st.sampled_from(IDS)), max_size=6)


@given(boxes, boxes)
def test_rows_add_up_to_the_objects_and_columns_to_the_detections(true: list, found: list) -> None:
    objects = [object_(category, [float(v) for v in box]) for *box, category in true]
    detections = [detection(category, [float(v) for v in box]) for *box, category in found]
    counts = np.array(counted(objects, detections))
    for place, id_ in enumerate(IDS):
        assert counts[place].sum() == sum(one["category_id"] == id_ for one in objects)
        assert counts[:, place].sum() == sum(one["category_id"] == id_ for one in detections)


@given(boxes, boxes)
def test_overlaps_agree_with_pycocotools(true: list, found: list) -> None:
    from pycocotools import mask

    first, second = (np.array([box for *box, _ in given], np.float64).reshape(-1, 4) for given in (true, found))
    if len(first) and len(second):
        assert np.allclose(overlaps(first, second), mask.iou(first, second, [0] * len(second)))
