"""From the vision tower's rows to the language model's: the projectors of LLaVA and its descendants, by name.

    linear               Linear                                             g² rows     LLaVA, Griffon v1
    mlp2x_gelu, mlp3x_…  Linear, GELU, Linear, …                            g²          LLaVA-1.5, GLaMM, VisPer-LM
    conv_reduce          3x3 convolution of stride 2, GELU, Linear          ⌈g/2⌉²      Griffon v2 and G
    conv_reduce_wo_pad   the same without padding                           ⌊(g-1)/2⌋²  Griffon
    resampler            576 queries read the rows in one attention layer   576         Qwen-VL, Griffon
    identity             nothing                                            g²

Parameters are called as in published files behind `mm_projector.`, so one rule with a star maps them all.
"""

import re
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcore.errors import RecipeError, ShapeError

KINDS = ("linear", "mlp2x_gelu", "conv_reduce", "conv_reduce_wo_pad", "resampler", "identity")
"""mlp2x_gelu stands for any depth."""
RESAMPLER_GRID = 24
"""Queries along one side, whatever the tower's grid (Qwen-VL)."""
HEAD_WIDTH = 128
"""Channels of one head of the resampler."""


def build_projector(kind: str, channels: int, width: int) -> nn.Module:
    """The projector of a published name, with fresh weights: (images, rows, channels) -> (images, rows', width).

    Args:
        kind: as `mm_projector_type` of published configurations says it.
        channels: of the tower's rows.
        width: of the language model.

    Raises:
        RecipeError: there is no such projector, or it does not fit the sizes.
    """
    if depth := re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind):
        return _mlp(channels, width, int(depth.group(1)))
    if kind == "linear":
        return nn.Linear(channels, width)
    if kind in ("conv_reduce", "conv_reduce_wo_pad"):
        return ConvReduce(channels, width, padding=int(kind == "conv_reduce"))
    if kind == "resampler":
        return ImageResampler(channels, width)
    if kind == "identity":
        if channels != width:
            raise RecipeError(f"the projector identity cannot turn {channels} channels into {width}")
        return nn.Identity()
    raise RecipeError(f"there is no projector {kind!r}", known=KINDS, do="choose one of these")


def known_projector(kind: str) -> bool:
    """Whether there is a projector of this published name."""
    return kind in KINDS or re.fullmatch(r"mlp[1-9]\d*x_gelu", kind) is not None


def projected_tokens(kind: str, grid: int) -> int:
    """Rows of one picture behind a projector, of a tower with `grid` patches along one side."""
    if kind == "resampler":
        return RESAMPLER_GRID**2
    if kind in ("conv_reduce", "conv_reduce_wo_pad"):
        return ((grid - 3 + 2 * (kind == "conv_reduce")) // 2 + 1) ** 2
    return grid**2


def _mlp(channels: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(channels, width)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


class ConvReduce(nn.Module):
    """Half the rows along each side: a 3x3 convolution of stride 2 over the square of patches, GELU, a linear layer.

    Args:
        channels: of the tower's rows.
        width: of the language model.
        padding: rows of zeros around the square, 1 or 0.
    """

    def __init__(self, channels: int, width: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=padding)
        self.linear = nn.Linear(width, width)

    def forward(self, rows: Float[Tensor, "images rows channels"]) -> Float[Tensor, "images fewer width"]:
        """The fewer rows, row by row of the smaller square.

        Raises:
            ShapeError: the rows are no square.
        """
        side = _side(rows.shape[1])
        square = rows.transpose(1, 2).unflatten(2, (side, side))
        return self.linear(F.gelu(self.conv(square)).flatten(2).transpose(1, 2))


class ImageResampler(nn.Module):
    """A fixed number of learned queries that read a picture's rows once (Qwen-VL, Bai et al. 2023).

    Places are known to queries and rows by fixed sines and cosines, resized where the picture's square is another.

    Args:
        channels: of the tower's rows.
        width: of the language model.

    Raises:
        RecipeError: the width cannot be cut into heads.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise RecipeError(f"the resampler needs heads of {HEAD_WIDTH} channels; the language model has {width}")
        norm = partial(nn.LayerNorm, width, eps=1e-6)
        # A parameter and not a buffer, as in published files; it is never trained.
        self.pos_embed = nn.Parameter(square_positions(width, RESAMPLER_GRID), requires_grad=False)
        self.query = nn.Parameter(torch.zeros(RESAMPLER_GRID**2, width))
        self.kv_proj = nn.Identity() if channels == width else nn.Linear(channels, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = norm(), norm(), norm()
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Float[Tensor, "images rows channels"]) -> Float[Tensor, "images queries width"]:
        """What the queries read."""
        places = self._places(_side(rows.shape[1])).to(rows.dtype)
        values = self.ln_kv(self.kv_proj(rows))
        asked = (self.ln_q(self.query) + self.pos_embed.to(rows.dtype)).expand(len(rows), -1, -1)
        return self.proj(self.ln_post(self.attn(asked, values + places, values, need_weights=False)[0]))

    def _places(self, side: int) -> Float[Tensor, "rows width"]:
        if side == RESAMPLER_GRID:
            return self.pos_embed
        square = self.pos_embed.float().unflatten(0, (RESAMPLER_GRID, RESAMPLER_GRID)).permute(2, 0, 1)[None]
        return F.interpolate(square, (side, side), mode="bicubic", align_corners=False)[0].flatten(1).T


def square_positions(width: int, grid: int) -> Float[Tensor, "positions width"]:
    """Sines and cosines of the column, then of the row, of every place in a square; a quarter of the channels each.

    Args:
        width: a multiple of four.
        grid: places along one side.
    """
    rates = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves[None].expand(grid, -1, -1), waves[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1)


def _side(rows: int) -> int:
    side = round(rows**0.5)
    if side * side != rows:
        raise ShapeError(f"{rows} rows of a picture are no square", where="projector")
    return side
