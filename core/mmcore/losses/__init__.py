"""Losses and matching that DETR-like families share. Sums per row or per set, never means over a batch: the engine
normalises over the global batch.

    points      bilinear sampling of maps, of bytes, and which points are uncertain
    focal       sigmoid focal loss with few positives among many negatives
    box         L1 and GIoU
    mask        binary cross-entropy and dice on sampled points
    full_masks  binary cross-entropy and dice of masks at the size of their pictures
    jagged      rows of images with different numbers of objects, padded and back
    matcher     which query answers which object, for all output sets of a step at once
"""

from mmcore.losses.box import box_losses
from mmcore.losses.focal import focal_term, sigmoid_focal_loss, sparse_focal_sum
from mmcore.losses.full_masks import MaskTotals, mask_totals
from mmcore.losses.jagged import Jagged
from mmcore.losses.mask import dice_loss, point_bce
from mmcore.losses.matcher import (
    MaskInputs,
    MatchCosts,
    Matches,
    assign,
    box_costs,
    class_costs,
    mask_costs,
    match_queries,
)
from mmcore.losses.points import sample_channels, sample_masks, sample_points, uncertain_points

__all__ = [
    "Jagged",
    "MaskInputs",
    "MaskTotals",
    "MatchCosts",
    "Matches",
    "assign",
    "box_costs",
    "box_losses",
    "class_costs",
    "dice_loss",
    "focal_term",
    "mask_costs",
    "mask_totals",
    "match_queries",
    "point_bce",
    "sample_channels",
    "sample_masks",
    "sample_points",
    "sigmoid_focal_loss",
    "sparse_focal_sum",
    "uncertain_points",
]
