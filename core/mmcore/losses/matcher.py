"""Which query answers which object (DETR, Carion et al. 2020, section 3.1), for all output sets of a step at once.

Costs of every (set, object, query) are computed on the device without a loop over sets or images, go to the host in
one transfer, are solved there, and the pairs come back in one transfer. Objects lie end to end as in the batch, so
nothing is padded but the mask product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus

from mmcore.errors import ShapeError
from mmcore.geometry.boxes import cxcywh_to_xyxy, paired_giou
from mmcore.losses.focal import ALPHA, GAMMA
from mmcore.losses.jagged import Jagged, to_device
from mmcore.losses.points import sample_channels, sample_masks

_MAX_ELEMENTS = 1 << 24
"""Largest block of mask logits that is held at once, numbers; bounds the peak, not the result."""
_WORST = 1e9
"""Cost that stands for one that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchCosts:
    """The factor of each part of the matching cost, no unit."""

    label: float
    box: float
    giou: float
    mask: float = 0.0
    dice: float = 0.0


class MaskInputs(NamedTuple):
    """What mask costs are computed from; whole predicted masks are never among it."""

    embed: Float[Tensor, "sets batch queries mask_dim"]
    features: Float[Tensor, "batch mask_dim mask_height mask_width"]
    """Mask logits of a query are the product of its embedding with these."""
    masks: UInt8[Tensor, "objects height width"]
    """Ground truth, 0 or 1, laid end to end over the batch."""
    points: Float[Tensor, "sets batch points 2"]
    """Where masks are compared, x and y in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of every output set, ordered by image, then by ascending query.

    An image with n objects has min(n, queries) pairs in each set.
    """

    pairs: Jagged
    """Which image each pair belongs to; the same for all sets."""
    queries: Int[Tensor, "sets pairs"]
    objects: Int[Tensor, "sets pairs"]
    """Rows of the batch's flat object tensors."""

    def take(self, values: Float[Tensor, "sets batch queries size"]) -> Float[Tensor, "sets pairs size"]:
        """What each set predicts for its matched queries."""
        sets = torch.arange(len(values), device=values.device)[:, None]
        return values[sets, self.pairs.images, self.queries]


@torch.no_grad()
def match_queries(
    logits: Float[Tensor, "sets batch queries classes"],
    boxes_cxcywh: Float[Tensor, "sets batch queries 4"],
    labels: Int[Tensor, " objects"],
    targets_cxcywh: Float[Tensor, "objects 4"],
    num_objects: Sequence[int],
    weights: MatchCosts,
    masks: MaskInputs | None = None,
) -> Matches:
    """Pair every object with one query of its image so that the total cost is least, in every output set.

    Args:
        logits: (sets, batch, queries, classes), before the sigmoid.
        boxes_cxcywh: (sets, batch, queries, 4), fractions of the image side.
        labels: (objects,) class of each object, laid end to end over the batch.
        targets_cxcywh: (objects, 4), fractions of the image side.
        num_objects: objects of each image.
        weights: the factor of each cost.
        masks: what mask costs are computed from; None matches on class and box only.

    Raises:
        ShapeError: the counts do not fit the batch or the objects.
    """
    _check_counts(logits, labels, num_objects)
    objects = Jagged(num_objects, logits.device)
    if objects.total == 0:
        return assign(logits.new_zeros(len(logits), 0, logits.shape[2]), num_objects)
    with torch.autocast(logits.device.type, enabled=False):
        cost = weights.label * class_costs(logits.float(), labels, objects)
        distance, giou = box_costs(boxes_cxcywh.float(), targets_cxcywh, objects)
        cost += weights.box * distance + weights.giou * giou
        if masks is not None:
            cross_entropy, dice = mask_costs(masks, objects)
            cost += weights.mask * cross_entropy + weights.dice * dice
    return assign(cost, num_objects)


def class_costs(
    logits: Float[Tensor, "sets batch queries classes"], labels: Int[Tensor, " objects"], objects: Jagged
) -> Float[Tensor, "sets objects queries"]:
    """Focal loss that a query saves by being this object's: its loss as a positive minus that as a negative."""
    at_label = logits[:, objects.images, :, labels].transpose(0, 1)
    probability = at_label.sigmoid()
    # The 1e-6 are part of the published cost; the loss itself needs none.
    positive = ALPHA * (1 - probability).pow(GAMMA) * -(probability + 1e-6).log()
    negative = (1 - ALPHA) * probability.pow(GAMMA) * -(1 - probability + 1e-6).log()
    return positive - negative


def box_costs(
    boxes_cxcywh: Float[Tensor, "sets batch queries 4"], targets_cxcywh: Float[Tensor, "objects 4"], objects: Jagged
) -> tuple[Float[Tensor, "sets objects queries"], Float[Tensor, "sets objects queries"]]:
    """L1 distance and -GIoU of each object to every query of its image; predictions are clamped to [0, 1] first."""
    boxes = boxes_cxcywh.clamp(0, 1)[:, objects.images]
    targets = targets_cxcywh[:, None].expand_as(boxes)
    return (boxes - targets).abs().sum(-1), -paired_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))


def mask_costs(
    inputs: MaskInputs, objects: Jagged
) -> tuple[Float[Tensor, "sets objects queries"], Float[Tensor, "sets objects queries"]]:
    """Mean cross-entropy and dice loss of each object's mask to every query of its image, at shared points.

    Masks of queries exist only at the points, and only for as many sets at a time as fit `_MAX_ELEMENTS`.
    """
    embed, features, masks, points = inputs
    features = features.float().permute(0, 2, 3, 1).contiguous()
    _, batch, queries, _ = embed.shape
    per_set = points.shape[2] * (batch * queries + 8 * objects.total)
    step = max(1, _MAX_ELEMENTS // max(1, per_set))
    parts = [
        _mask_costs(MaskInputs(some_embed.float(), features, masks, some_points), objects)
        for some_embed, some_points in zip(embed.split(step), points.split(step), strict=True)
    ]
    cross_entropy, dice = (torch.cat(part) for part in zip(*parts, strict=True))
    return cross_entropy, dice


def _mask_costs(inputs: MaskInputs, objects: Jagged) -> tuple[Tensor, Tensor]:
    """The same for some sets, with features channels last."""
    points = inputs.points
    sets, _, num_points, _ = points.shape
    rows = torch.arange(objects.total, device=points.device).repeat(sets)
    truth = sample_masks(inputs.masks, points[:, objects.images].flatten(0, 1), rows)
    truth = objects.pad(truth.view(sets, objects.total, num_points))
    logits = _logits_at_points(inputs.embed, inputs.features, points)
    # With target t, cross-entropy is softplus(x) - x·t: one product with the targets, and no second exponential.
    cross_entropy = (softplus(logits).sum(2, keepdim=True) - truth @ logits) / num_points
    probability = logits.sigmoid_()
    dice = 1 - (2 * (truth @ probability) + 1) / (probability.sum(2, keepdim=True) + truth.sum(3, keepdim=True) + 1)
    return objects.unpad(cross_entropy), objects.unpad(dice)


def _logits_at_points(
    mask_embed: Float[Tensor, "sets batch queries mask_dim"],
    features: Float[Tensor, "batch mask_height mask_width mask_dim"],
    points: Float[Tensor, "sets batch points 2"],
) -> Float[Tensor, "sets batch points queries"]:
    """Mask logits of every query at its image's points. Sampling is linear, so product and sampling may swap: the
    product runs over whichever is fewer, pixels or points."""
    sets, batch, num_points, _ = points.shape
    _, height, width, _ = features.shape
    towards_queries = mask_embed.transpose(2, 3)
    if height * width < num_points:
        whole = (features.flatten(1, 2) @ towards_queries).view(sets * batch, height, width, -1)
        return sample_channels(whole, points.flatten(0, 1)).view(sets, batch, num_points, -1)
    rows = torch.arange(batch, device=points.device).repeat(sets)
    sampled = sample_channels(features, points.flatten(0, 1), rows)
    return sampled.view(sets, batch, num_points, -1) @ towards_queries


def assign(cost: Float[Tensor, "sets objects queries"], num_objects: Sequence[int]) -> Matches:
    """Solve the assignment of every set and image on the host; one transfer there, one back.

    Args:
        cost: (sets, objects, queries) of the objects' own images.
        num_objects: objects of each image.
    """
    num_queries = cost.shape[2]
    pairs = Jagged([min(count, num_queries) for count in num_objects], cost.device)
    # Whatever is not finite here is not finite in the loss either, where it is reported; matching must not hide it
    # behind an error of its own.
    finite = cost.nan_to_num(nan=_WORST, posinf=_WORST, neginf=-_WORST)
    host = finite.cpu().numpy()
    result = np.empty((2, len(host), pairs.total), dtype=np.int64)
    bounds = np.cumsum([0, *num_objects])
    for output_set, costs in enumerate(host):
        for image, first in enumerate(pairs.starts):
            here = slice(bounds[image], bounds[image + 1])
            queries, objects = linear_sum_assignment(costs[here].T)
            result[0, output_set, first : first + len(queries)] = queries
            result[1, output_set, first : first + len(queries)] = objects + bounds[image]
    queries, objects = to_device(result, cost.device)
    return Matches(pairs, queries, objects)


def _check_counts(logits: Tensor, labels: Tensor, num_objects: Sequence[int]) -> None:
    if len(num_objects) != logits.shape[1] or sum(num_objects) != len(labels):
        raise ShapeError(
            f"object counts {tuple(num_objects)} do not fit {len(labels)} labels of {logits.shape[1]} images",
            do="give one count per image, together as many as there are labels",
        )
