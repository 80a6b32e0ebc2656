"""Sigmoid focal loss (Lin et al. 2017): with z = logit for a negative and z = -logit for a positive it is
weight · σ(z)^γ · softplus(z), which is stable for every z.
"""

import torch
from jaxtyping import Float, Int
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
    positives: tuple[Int[Tensor, "..."], ...],
    *,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Float[Tensor, " sets"]:
    """Sum of the focal loss over everything but the first axis, for few positives among many negatives.

    No one-hot target is built. Positives are taken out of the negatives rather than subtracted from their sum: a
    well-learnt positive is a large negative, and the difference of the two would keep nothing of the small loss.

    Args:
        logits: (sets, ...), before the sigmoid.
        positives: index of the logits that should be 1, one tensor per axis, each position at most once.

    Returns:
        (sets,).
    """
    others = logits.index_put(positives, logits.new_tensor(float("-inf")))
    as_negative = (1 - alpha) * focal_term(others, gamma).flatten(1).sum(1)
    return as_negative + alpha * focal_term(-logits[positives], gamma).sum(1)
