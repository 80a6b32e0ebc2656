"""Box formats round-trip, and overlaps agree with torchvision and with counting pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcore.errors import ShapeError
from mmcore.geometry import boxes
from torchvision import ops

box_lists = st.lists(
    st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 40), st.floats(0.01, 40)), min_size=1, max_size=6
)


def as_xyxy(rows: list[tuple[float, ...]]) -> torch.Tensor:
    return boxes.xywh_to_xyxy(torch.tensor(rows, dtype=torch.float64))


@given(box_lists)
def test_formats_round_trip(rows):
    xywh = torch.tensor(rows, dtype=torch.float64)
    xyxy = boxes.xywh_to_xyxy(xywh)
    torch.testing.assert_close(boxes.xyxy_to_xywh(xyxy), xywh)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy)


@given(box_lists, box_lists)
def test_pairwise_overlaps_are_those_of_torchvision(first, second):
    a, b = as_xyxy(first), as_xyxy(second)
    torch.testing.assert_close(boxes.pairwise_iou(a, b), ops.box_iou(a, b))
    torch.testing.assert_close(boxes.pairwise_giou(a, b), ops.generalized_box_iou(a, b))


@given(box_lists)
def test_paired_overlaps_are_the_diagonal_of_pairwise(rows):
    a = as_xyxy(rows)
    b = a.flip(0) + 1.5
    torch.testing.assert_close(boxes.paired_iou(a, b), boxes.pairwise_iou(a, b).diagonal())
    torch.testing.assert_close(boxes.paired_giou(a, b), boxes.pairwise_giou(a, b).diagonal())


def test_empty_boxes_give_zero_overlap_and_finite_gradients():
    empty = torch.zeros(1, 4, requires_grad=True)
    value = boxes.paired_giou(empty, torch.zeros(1, 4))
    value.sum().backward()
    assert value.item() == 0
    assert torch.isfinite(empty.grad).all()


def test_no_boxes_are_allowed():
    assert boxes.pairwise_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


def test_pairing_different_numbers_of_boxes_names_both_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 4\).*\(3, 4\)"):
        boxes.paired_iou(torch.zeros(2, 4), torch.zeros(3, 4))


def test_clipping_keeps_boxes_inside_the_image():
    clipped = boxes.clip_boxes(torch.tensor([[-5.0, 2.0, 30.0, 99.0]]), height=20, width=10)
    assert clipped.tolist() == [[0.0, 2.0, 10.0, 20.0]]
