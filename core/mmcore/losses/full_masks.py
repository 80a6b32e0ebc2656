"""Losses of masks at the size of their pictures, without ever holding a mask of that size for the backward pass.

A decoder's logits are enlarged by two products (`mmcore.geometry.square`). Both losses and their gradients with respect
to the small logits are computed in one pass over a few masks at a time. Numbers are those of the published code of LISA
(Lai et al. 2024): BCE is the mean over a mask's pixels, dice divides by 1000 inside its sums.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcore.geometry.square import Frame, matrices

DICE_SCALE, DICE_EPS = 1000.0, 1e-6
PIXELS_AT_ONCE = 1 << 24
"""Pixels of full-size masks that are alive at a time; 64 MB in float32."""


class MaskTotals(NamedTuple):
    """Sums over masks, without weights."""

    bce: Float[Tensor, ""]
    dice: Float[Tensor, ""]


def mask_totals(
    low: Float[Tensor, "masks small small"],
    places: Sequence[Frame],
    targets: Sequence[UInt8[Tensor, "_ _ _"]],
    side: int,
) -> MaskTotals:
    """Both losses of every mask of a batch, summed.

    Args:
        low: logits of the decoder, picture by picture.
        places: of each picture.
        targets: of each picture, one for each of its masks; values over 1 where polygons overlap count as they are.
        side: of the padded square, pixels.
    """
    counts = [len(target) for target in targets]
    if not sum(counts):
        nothing = low.float().sum() * 0.0
        return MaskTotals(nothing, nothing)
    parts = [
        MaskTotals(*_Totals.apply(part, *matrices(place, low.shape[-1], side, low.device), target))
        for part, place, target, count in zip(low.split(counts), places, targets, counts, strict=True)
        if count
    ]
    return MaskTotals(torch.stack([p.bce for p in parts]).sum(), torch.stack([p.dice for p in parts]).sum())


class _Totals(torch.autograd.Function):
    """Losses and gradients of one picture's masks; the backward pass only multiplies."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, rows: Tensor, columns: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        bce, dice = low.new_zeros((), dtype=torch.float32), low.new_zeros((), dtype=torch.float32)
        grads = [torch.empty(low.shape, dtype=torch.float32, device=low.device) for _ in range(2 * wanted)]
        step = max(1, PIXELS_AT_ONCE // (len(rows) * len(columns)))
        with torch.autocast(low.device.type, enabled=False):
            for start in range(0, len(low), step):
                part = slice(start, start + step)
                logits = rows @ low[part].float() @ columns.T
                losses, slopes = pixel_losses(logits, targets[part].float(), wanted)
                bce, dice = bce + losses[0], dice + losses[1]
                for gradient, slope in zip(grads, slopes):
                    gradient[part] = rows.T @ slope @ columns
        ctx.save_for_backward(*grads)
        ctx.kept = low.dtype
        return bce, dice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        bce, dice = ctx.saved_tensors
        return (given[0] * bce + given[1] * dice).to(ctx.kept), None, None, None


def pixel_losses(logits: Tensor, targets: Tensor, wanted: bool) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """BCE and dice, each summed over masks, and their slopes by logit; published formulas."""
    pixels = logits.shape[-1] * logits.shape[-2]
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum((1, 2)) / pixels
    chance = logits.sigmoid()
    top = 2 * (chance * targets).sum((1, 2)) / DICE_SCALE + DICE_EPS
    bottom = (chance.sum((1, 2)) + targets.sum((1, 2))) / DICE_SCALE + DICE_EPS
    losses = bce.sum(), (1 - top / bottom).sum()
    if not wanted:
        return losses, []
    inner = (top / bottom**2)[:, None, None] - 2 * targets / bottom[:, None, None]
    slope = inner.mul_(chance * (1 - chance)).div_(DICE_SCALE)
    return losses, [chance.sub_(targets).div_(pixels), slope]
