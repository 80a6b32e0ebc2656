"""How far predicted features are from a teacher's: smooth L1, and a contrast with the other images' features.

VisPer-LM section 3.2. Everything is computed in float32 and per sample, so that a sum over samples can be normalised
over any part of the global batch. The contrast is with the images of all processes: their targets are gathered, with
however many rows each process has. Targets need no gradient, so one plain gather is enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from mmcore.base.distributed import is_distributed
from torch import Tensor


class EmbeddingLoss(NamedTuple):
    """Sums over the samples of this process."""

    smooth_l1: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]
    """Already multiplied by its weight inside the task."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What predictions are compared with: the normalised targets of one task on all processes, in rank order."""

    rows: Float[Tensor, "images features"]
    first: int
    """Row of this process's first image."""


def smooth_l1(
    predictions: Float[Tensor, "samples ..."], targets: Float[Tensor, "samples ..."]
) -> Float[Tensor, " samples"]:
    """Mean of smooth L1 (beta 1) over the features of each sample."""
    with torch.autocast(predictions.device.type, enabled=False):
        return F.smooth_l1_loss(predictions.float(), targets.float(), reduction="none").flatten(1).mean(1)


def contrastive(
    predictions: Float[Tensor, "samples ..."], candidates: Candidates, scale: Float[Tensor, ""]
) -> Float[Tensor, " samples"]:
    """Cross-entropy of finding each prediction's own target among all images' by cosine similarity times `scale`."""
    with torch.autocast(predictions.device.type, enabled=False):
        rows = F.normalize(predictions.float().flatten(1), dim=-1)
        logits = rows @ candidates.rows.T * scale.float()
        own = torch.arange(candidates.first, candidates.first + len(rows), device=logits.device)
        return F.cross_entropy(logits, own, reduction="none")


def embedding_loss(
    predictions: Float[Tensor, "samples ..."],
    targets: Float[Tensor, "samples ..."],
    candidates: Candidates | None,
    scale: Float[Tensor, ""] | None,
    *,
    weight: float,
    has_image: Float[Tensor, " samples"] | None = None,
    outer_product: bool = False,
) -> EmbeddingLoss:
    """Both losses of one task at one layer, as sums over samples.

    Args:
        predictions: of samples in order.
        targets: in the same shape.
        candidates: from `gather_targets`; None leaves the contrastive loss out.
        scale: factor on similarities.
        weight: of the contrastive loss.
        has_image: 1 where a sample counts, 0 where it is a dummy; None counts all.
        outer_product: average the contrast over dummies too and scale it by the share of real samples, as the released
            code does by accident (a mask of shape (samples, 1, 1) times losses of shape (samples,)).
    """
    distance = smooth_l1(predictions, targets)
    mask = torch.ones_like(distance) if has_image is None else has_image.to(distance)
    if candidates is None or scale is None:
        return EmbeddingLoss((distance * mask).sum(), distance.new_zeros(()))
    contrast = contrastive(predictions, candidates, scale)
    counted = contrast.sum() * mask.mean() if outer_product and len(contrast) else (contrast * mask).sum()
    return EmbeddingLoss((distance * mask).sum(), weight * counted)


class Shares(NamedTuple):
    """What every process brings to an exchange of targets."""

    counts: tuple[int, ...]
    """Images, by rank."""
    dtype: torch.dtype
    """In which targets travel; one for all."""


@torch.no_grad()
def exchange_shares(targets: Mapping[str, Tensor]) -> Shares | None:
    """How many images every process has, and whether all targets are float16; None for a single process.

    Every process must call this, also one without images. It waits for the device once per step: the sizes of what
    follows depend on it.
    """
    if not is_distributed():
        return None
    first = next(iter(targets.values()))
    is_half = not len(first) or all(target.dtype == torch.float16 for target in targets.values())
    mine = torch.tensor([len(first), 2 if is_half else 4], device=first.device)
    received = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(received, mine)
    counts, sizes = zip(*torch.stack(received).tolist(), strict=True)
    return Shares(counts, torch.float16 if max(sizes) == 2 else torch.float32)


@torch.no_grad()
def gather_targets(targets: Float[Tensor, "samples ..."], shares: Shares | None = None) -> Candidates:
    """The normalised targets of one task from all processes.

    Every process must call this, also one without images.

    Args:
        targets: this process's, one row per image.
        shares: from `exchange_shares`; None compares with this process's images only.
    """
    rows = targets.flatten(1)
    most = max(shares.counts) if shares is not None else 0
    if shares is None or most == 0:
        return Candidates(F.normalize(rows.float(), dim=-1), 0)
    padded = F.pad(rows.to(shares.dtype), (0, 0, 0, most - len(rows))).contiguous()
    received = [torch.empty_like(padded) for _ in shares.counts]
    dist.all_gather(received, padded)
    everything = torch.cat([part[:count] for part, count in zip(received, shares.counts, strict=True)])
    return Candidates(F.normalize(everything.float(), dim=-1), sum(shares.counts[: dist.get_rank()]))
