"""Sigmoid focal loss (Lin et al. 2017): with z = logit for a negative and z = -logit for a positive it is
weight · σ(z)^γ · softplus(z), which is stable for every z.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ALPHA = 0.25
"""Weight of a positive; a negative weighs 1 - ALPHA."""
GAMMA = 2.0


def focal_term(z: Float[Tensor, "*shape"], gamma: float = GAMMA) -> Float[Tensor, "*shape"]:
    """σ(z)^γ · softplus(z): the focal loss of a negative with logit z, or of a positive with logit -z, unweighted."""
    return z.sigmoid().pow(gamma) * F.softplus(z)


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"],
    positive: Float[Tensor, "*shape"] | Tensor,
    *,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Float[Tensor, "*shape"]:
    """Elementwise focal loss.

    Args:
        logits: any shape, before the sigmoid.
        positive: same shape, boolean or 0 and 1.
    """
    positive = positive.bool()
    loss = focal_term(torch.where(positive, -logits, logits), gamma)
    return loss * torch.where(positive, alpha, 1 - alpha)


def sparse_focal_sum(
    logits: Float[Tensor, " sets *rest"],
    at_positives: Float[Tensor, "sets positives"],
    *,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Float[Tensor, " sets"]:
    """Sum of the focal loss over everything but the first axis, for few positives among many negatives.

    All logits are summed as negatives, then the positives change sides; no one-hot target is ever built.

    Args:
        logits: (sets, ...), before the sigmoid.
        at_positives: (sets, positives), the logits that should be 1, gathered from `logits` (each at most once).

    Returns:
        (sets,).
    """
    as_negative = (1 - alpha) * focal_term(logits, gamma).flatten(1).sum(1)
    change = alpha * focal_term(-at_positives, gamma) - (1 - alpha) * focal_term(at_positives, gamma)
    return as_negative + change.sum(1)
