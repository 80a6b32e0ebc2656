"""Regression losses of matched boxes: L1 on centre and size, and one minus the generalised IoU."""

from jaxtyping import Float
from torch import Tensor

from mmcore.geometry.boxes import cxcywh_to_xyxy, paired_giou


def box_losses(
    boxes: Float[Tensor, "*pairs 4"], targets: Float[Tensor, "*pairs 4"]
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """L1 and 1 - GIoU of each pair (DETR, section 3.1; Rezatofighi et al. 2019).

    Args:
        boxes: (..., 4) cxcywh, fractions of the image side.
        targets: (..., 4) cxcywh, same unit.

    Returns:
        L1 summed over the four numbers (...), and 1 - GIoU in [0, 2] (...).
    """
    distance = (boxes - targets).abs().sum(-1)
    return distance, 1 - paired_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))
