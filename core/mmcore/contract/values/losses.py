"""What a model returns in training: named sums, each with what it is divided by."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Loss(NamedTuple):
    """One named loss of a micro-batch, already multiplied by its weight."""

    total: Float[Tensor, ""]
    """Sum over everything the normaliser counts, not a mean."""
    per: str
    """The entry of `Batch.normalisers` this sum is divided by, after that was summed over the global batch."""


class Losses(dict[str, Loss]):
    """Named losses of one micro-batch, in the order in which they are reported."""
