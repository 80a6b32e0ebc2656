"""What the query decoder hands to the criterion, and the random numbers of one training step.

Masks are never materialised for training: a set carries mask embeddings, and the criterion samples the mask features
where it needs a logit. Sampling is linear, so sampling the features and then taking the product gives the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(slots=True)
class QueryOutputs:
    """Predictions of one layer for every query."""

    logits: Float[Tensor, "batch queries classes"]
    """Class scores before the sigmoid."""
    boxes_cxcywh: Float[Tensor, "batch queries 4"]
    """Fractions of the padded width and height."""
    mask_embed: Float[Tensor, "batch queries mask_dim"] | None = None
    """Mask logits are `mask_embed · mask_features`; None for denoising sets without mask losses."""
    confidence: Float[Tensor, "batch queries 1"] | None = None
    """How likely the query is the prompted object, before the sigmoid; None for denoising sets."""


@dataclass(slots=True)
class DecoderOutputs:
    """Every output set of one forward pass.

    Names of sets: "final" is the last layer, "0" the proposals before the first decoder layer, "1"... the layers
    between, "interm" the proposals as the encoder scored them. Denoising sets share these names, without "interm".
    """

    sets: dict[str, QueryOutputs]
    mask_features: Float[Tensor, "batch mask_dim mask_height mask_width"]
    denoising: dict[str, QueryOutputs] = field(default_factory=dict)
    """Denoising queries of the same layers; empty when there are none."""
    denoising_groups: int = 0
    """How often each object was noised."""
    denoising_pad: int = 0
    """Number of denoising queries: group g, object j of an image sits at slot g · (pad / groups) + j."""
    track_embed: Float[Tensor, "batch queries embed_dim"] | None = None
    """Hidden state of each query after the last layer, normalised."""


class Draws:
    """The random numbers of one training step, all from torch's generator of the device they are used on.

    Parity checks replace this class by one that replays stored numbers; nothing else in a step is random, except
    dropout.
    """

    def match_points(
        self, sets: Sequence[str], num_images: int, num_points: int, device: torch.device
    ) -> Float[Tensor, "sets batch points 2"]:
        """Uniform points (x, y) in [0, 1], shared by all masks of an image in the matching of a set."""
        return torch.rand(len(sets), num_images, num_points, 2, device=device)

    def loss_points(
        self, sets: Sequence[str], num_pairs: int, num_oversampled: int, num_random: int, device: torch.device
    ) -> tuple[Float[Tensor, "sets pairs oversampled 2"], Float[Tensor, "sets pairs random 2"]]:
        """Uniform points (x, y) in [0, 1] for the mask losses: candidates for the uncertain ones, and others.

        Pairs are ordered by image, then by ascending query.
        """
        return (
            torch.rand(len(sets), num_pairs, num_oversampled, 2, device=device),
            torch.rand(len(sets), num_pairs, num_random, 2, device=device),
        )

    def denoising(
        self, num_copies: int, num_classes: int, flip_probability: float, device: torch.device
    ) -> tuple[Bool[Tensor, " copies"], Int[Tensor, " copies"], Float[Tensor, "copies 4"]]:
        """For every noised copy of an object, groups outermost: whether its label is replaced, by which, and [0, 1)
        numbers for its box noise."""
        flip = torch.rand(num_copies, device=device) < flip_probability
        labels = torch.randint(0, num_classes, (num_copies,), device=device)
        return flip, labels, torch.rand(num_copies, 4, device=device)

    def prompt_keys(self, level: int, pixels: Bool[Tensor, "batch pixels"]) -> Float[Tensor, "batch pixels"]:
        """Sort keys above -1: the pixels of a visual prompt with the largest keys are sampled at a feature level."""
        del level
        return torch.rand(pixels.shape, device=pixels.device)

    def track_negatives(self, num_frames: int, num_queries: int, count: int, device: torch.device) -> Tensor:
        """Different queries of each frame, (frames, count), which stand for other things in the track loss."""
        return torch.rand(num_frames, num_queries, device=device).topk(min(count, num_queries), dim=1).indices
