"""A picture in the upper left corner of a padded square: where it lies, and maps of the square at its own size.

Logits of masks are enlarged twice, as SAM does (Kirillov et al. 2023): to the padded square, of which the picture's
part is cut out, and to the picture. Both steps are linear and work along rows and columns apart, so for each picture
they are one matrix on either side, and enlarging is two products:

    large = rows · small · columnsᵀ           rows (height, side), columns (width, side)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Frame(NamedTuple):
    """How a picture lies in the square."""

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
    rows, columns = matrices(place, low.shape[-1], side, low.device)
    with torch.autocast(low.device.type, enabled=False):
        return rows @ low.float() @ columns.T


def enlarge_each(
    low: Float[Tensor, "masks small small"], sizes: Sequence[tuple[int, int]], counts: Sequence[int], side: int
) -> list[Float[Tensor, "_ height width"]]:
    """Logits of masks of several pictures, each at its picture's own size, float32.

    Args:
        low: those of the first picture first.
        sizes: height and width of each picture.
        counts: masks of each picture.
        side: of the padded squares, pixels.
    """
    pieces = zip(low.split(list(counts)), sizes, strict=True)
    return [
        enlarge(part, frame(size, side), side) if len(part) else part.new_zeros(0, *size, dtype=torch.float32)
        for part, size in pieces
    ]


def matrices(place: Frame, small: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What enlarges rows and columns of a picture's logits, float32; made where they are used."""
    (height, width), (rows, columns) = place
    return _matrix(small, side, height, rows, device), _matrix(small, side, width, columns, device)


def _matrix(small: int, side: int, used: int, size: int, device: torch.device) -> Float[Tensor, "size small"]:
    """Bilinear resizing of `small` cells to `side`, of which the first `used` are kept and resized to `size`."""
    one = torch.eye(small, device=device)[None]  # a signal of one cell a channel
    large = F.interpolate(one, side, mode="linear", align_corners=False)[..., :used]
    return F.interpolate(large, size, mode="linear", align_corners=False)[0].T.contiguous()
