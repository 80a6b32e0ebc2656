"""Boxes: the three formats, their areas and overlaps. Every conversion in mmcore is one of these functions.

    xyxy    left, top, right, bottom
    xywh    left, top, width, height (COCO files)
    cxcywh  centre x, centre y, width, height (what detectors predict)

The unit is the caller's: pixels, or fractions of the image side. Areas have no "+ 1": a box from 2 to 5 is 3 wide.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mmcore.errors import ShapeError


def cxcywh_to_xyxy(boxes: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes 4"]:
    """Centre and size to corners, any unit."""
    cx, cy, width, height = boxes.unbind(-1)
    return torch.stack((cx - 0.5 * width, cy - 0.5 * height, cx + 0.5 * width, cy + 0.5 * height), dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes 4"]:
    """Corners to centre and size, any unit."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), dim=-1)


def xywh_to_xyxy(boxes: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes 4"]:
    """Corner and size (COCO files) to corners, any unit."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=-1)


def xyxy_to_xywh(boxes: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes 4"]:
    """Corners to corner and size (COCO files), any unit."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), dim=-1)


def box_area(boxes_xyxy: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes"]:
    """Width times height, squared unit; negative where exactly one side is turned around."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def clip_boxes(boxes_xyxy: Float[Tensor, "*boxes 4"], height: float, width: float) -> Float[Tensor, "*boxes 4"]:
    """The part of each box inside an image of this size, same unit as the boxes."""
    limits = boxes_xyxy.new_tensor([width, height, width, height])
    return torch.minimum(boxes_xyxy.clamp(min=0), limits)


def pairwise_iou(first: Float[Tensor, "first 4"], second: Float[Tensor, "second 4"]) -> Float[Tensor, "first second"]:
    """Intersection over union of every box of one set with every box of the other.

    Args:
        first: (first, 4) xyxy, any unit.
        second: (second, 4) xyxy, same unit.

    Returns:
        (first, second) in [0, 1]; 0 where the union is empty.
    """
    return _ratio(*_overlap(first[:, None], second[None]))


def pairwise_giou(first: Float[Tensor, "first 4"], second: Float[Tensor, "second 4"]) -> Float[Tensor, "first second"]:
    """Generalised IoU (Rezatofighi et al. 2019) of every box of one set with every box of the other.

    Args:
        first: (first, 4) xyxy, any unit.
        second: (second, 4) xyxy, same unit.

    Returns:
        (first, second) in [-1, 1].
    """
    return _generalised(first[:, None], second[None])


def paired_iou(first: Float[Tensor, "*boxes 4"], second: Float[Tensor, "*others 4"]) -> Float[Tensor, "*boxes"]:
    """Intersection over union of boxes in the same row: the diagonal of `pairwise_iou`, without the rest.

    Args:
        first: (..., 4) xyxy, any unit.
        second: xyxy, same shape and unit.

    Raises:
        ShapeError: the two sets differ in shape.
    """
    _same_shape(first, second)
    return _ratio(*_overlap(first, second))


def paired_giou(first: Float[Tensor, "*boxes 4"], second: Float[Tensor, "*others 4"]) -> Float[Tensor, "*boxes"]:
    """Generalised IoU of boxes in the same row: the diagonal of `pairwise_giou`, without the rest.

    Args:
        first: (..., 4) xyxy, any unit.
        second: xyxy, same shape and unit.

    Raises:
        ShapeError: the two sets differ in shape.
    """
    _same_shape(first, second)
    return _generalised(first, second)


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union areas of broadcastable (..., 4) xyxy boxes."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, box_area(first) + box_area(second) - intersection


def _generalised(first: Tensor, second: Tensor) -> Tensor:
    intersection, union = _overlap(first, second)
    sides = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull = sides.clamp(min=0).prod(dim=-1)
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    # An empty box beside an empty box has no union; 0 / 0 would poison the whole loss, so it counts as 0.
    # The inner `where` keeps the division out of the backward pass as well.
    empty = whole == 0
    return torch.where(empty, torch.zeros_like(part), part / torch.where(empty, torch.ones_like(whole), whole))


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ShapeError(
            f"boxes of shape {tuple(first.shape)} cannot be paired with boxes of shape {tuple(second.shape)}",
            do="use the pairwise function for two sets of different length",
        )
