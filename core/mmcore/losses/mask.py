"""Mask losses on sampled points (Mask2Former, Cheng et al. 2022, section 3.2.3)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def point_bce(logits: Float[Tensor, "masks points"], targets: Float[Tensor, "masks points"]) -> Float[Tensor, " masks"]:
    """Binary cross-entropy, averaged over the points of each mask.

    Args:
        logits: (masks, points), before the sigmoid.
        targets: (masks, points) in [0, 1]; between them where a point falls on a mask's edge.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def dice_loss(logits: Float[Tensor, "masks points"], targets: Float[Tensor, "masks points"]) -> Float[Tensor, " masks"]:
    """1 - (2 Σ p·t + 1) / (Σ p + Σ t + 1) of each mask; the ones keep empty masks finite.

    Args:
        logits: (masks, points), before the sigmoid.
        targets: (masks, points) in [0, 1].
    """
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + targets.sum(1) + 1)
