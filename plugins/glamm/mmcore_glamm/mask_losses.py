"""Losses of masks at the size of their pictures, without ever holding a mask of that size for the backward pass.

The decoder's logits are enlarged twice, as SAM does: to the padded square, of which the picture's part is cut out, and
to the picture. Both steps are linear and work along rows and columns apart, so for each picture they are one matrix on
either side, and enlarging is two products:

    large = rows · small · columnsᵀ           rows (height, side), columns (width, side)

Both losses and their gradients with respect to the small logits are computed in one pass over a few masks at a time.
Numbers are those of the published code: BCE is the mean over a mask's pixels, dice divides by 1000 inside its sums.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

DICE_SCALE, DICE_EPS = 1000.0, 1e-6
PIXELS_AT_ONCE = 1 << 24
"""Pixels of full-size masks that are alive at a time; 64 MB in float32."""


class Frame(NamedTuple):
    """How a picture lies in SAM's square."""

    resized: tuple[int, int]
    """Height and width with the longest side enlarged to the square's, pixels."""
    original: tuple[int, int]
    """Height and width on disk, pixels."""


def frame(size: tuple[int, int], side: int) -> Frame:
    """The place of a picture of some height and width in a square of `side` pixels (`ResizeLongestSide`)."""
    scale = side * 1.0 / max(size)
    return Frame((int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)), size)


def enlarge(low: Float[Tensor, "masks small small"], place: Frame, side: int) -> Float[Tensor, "masks height width"]:
    """Logits at the picture's own size, float32.

    Args:
        low: of masks of one picture.
        place: of the picture.
        side: of the padded square, pixels.
    """
    rows, columns = _matrices(place, low.shape[-1], side, low.device)
    with torch.autocast(low.device.type, enabled=False):
        return rows @ low.float() @ columns.T


class MaskTotals(NamedTuple):
    """Sums over masks, without weights."""

    bce: Float[Tensor, ""]
    dice: Float[Tensor, ""]


def mask_totals(
    low: Float[Tensor, "masks small small"],
    places: Sequence[Frame],
    targets: Sequence[UInt8[Tensor, "_ height width"]],
    side: int,
) -> MaskTotals:
    """Both losses of every mask of a batch, summed.

    Args:
        low: logits of the decoder, picture by picture.
        places: of each picture.
        targets: of each picture, one for each of its masks; values over 1 where polygons overlap count as they are.
        side: of SAM's square, pixels.
    """
    counts = [len(target) for target in targets]
    if not sum(counts):
        nothing = low.float().sum() * 0.0
        return MaskTotals(nothing, nothing)
    parts = [
        MaskTotals(*_Totals.apply(part, *_matrices(place, low.shape[-1], side, low.device), target))
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


def _matrices(place: Frame, small: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What enlarges rows and columns of a picture's logits, float32; made where they are used."""
    (height, width), (rows, columns) = place
    return _matrix(small, side, height, rows, device), _matrix(small, side, width, columns, device)


def _matrix(small: int, side: int, used: int, size: int, device: torch.device) -> Float[Tensor, "size small"]:
    """Bilinear resizing of `small` cells to `side`, of which the first `used` are kept and resized to `size`."""
    one = torch.eye(small, device=device)[None]  # a signal of one cell a channel
    large = F.interpolate(one, side, mode="linear", align_corners=False)[..., :used]
    return F.interpolate(large, size, mode="linear", align_corners=False)[0].T.contiguous()
