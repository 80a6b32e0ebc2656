"""SAM's image encoder (Kirillov et al. 2023; ViTDet, Li et al. 2022): a picture of 1024 px to a map of 64 x 64.

Written out rather than taken from transformers: its encoder refuses a batch of no pictures, with which a process that
has none enters the same modules as the others, and it lays out the table of relative positions for every pair of
patches of every picture. Here a few rows of patches ask at a time, so that only their share of the table is there.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmcore.vision.sam.config import SamConfig

PAIRS_AT_ONCE = 1 << 25
"""Pairs of patches, over heads and pictures, whose positions are laid out at a time; 64 MB in half precision."""
PAIRS_ON_CPU = 1 << 22
"""The same on a CPU, whose last cache holds them: 16 MB in float32."""


class SamEncoder(nn.Module):
    """The vision transformer and its neck; parameters are called as in transformers' `SamVisionEncoder`.

    Args:
        config: sizes.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        width, grid = config.hidden_size, config.grid
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.pos_embed = nn.Parameter(torch.randn(1, grid, grid, width) * 0.02)
        windows = [0 if layer in config.global_layers else config.window_size for layer in range(config.num_layers)]
        self.layers = nn.ModuleList(SamLayer(config, window) for window in windows)
        self.neck = nn.Sequential(
            nn.Conv2d(width, config.out_channels, 1, bias=False),
            ChannelNorm(config.out_channels),
            nn.Conv2d(config.out_channels, config.out_channels, 3, padding=1, bias=False),
            ChannelNorm(config.out_channels),
        )

    def forward(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images channels grid grid"]:
        """The map of each picture, normalised as SAM's are and padded with zeros."""
        hidden = self.patch_embed(images).permute(0, 2, 3, 1) + self.pos_embed
        for layer in self.layers:
            hidden = layer(hidden)
        return self.neck(hidden.permute(0, 3, 1, 2))


class SamLayer(nn.Module):
    """Attention within windows, or over the picture when `window` is 0, and the feed-forward part."""

    def __init__(self, config: SamConfig, window: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SamAttention(width, config.num_heads, window or config.grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.lin1 = nn.Linear(width, int(width * config.mlp_ratio))
        self.lin2 = nn.Linear(int(width * config.mlp_ratio), width)

    def forward(self, hidden: Float[Tensor, "images height width channels"]) -> Tensor:
        normed = self.norm1(hidden)
        if self.window:
            size = (hidden.shape[1], hidden.shape[2])
            normed = from_windows(self.attn(to_windows(normed, self.window)), self.window, size)
        else:
            normed = self.attn(normed)
        hidden = hidden + normed
        return hidden + self.lin2(F.gelu(self.lin1(self.norm2(hidden))))


class SamAttention(nn.Module):
    """Self-attention over a square of patches with learned positions relative in row and column."""

    def __init__(self, width: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // num_heads))

    def forward(self, hidden: Float[Tensor, "squares side side channels"]) -> Tensor:
        squares, side, _, width = hidden.shape
        head = width // self.num_heads
        qkv = self.qkv(hidden).view(squares, side, side, 3, self.num_heads, head)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)
        offsets = relative(side, hidden.device)
        # In memory as they are indexed, or their sum over all keys would be laid out otherwise and copied.
        rows = torch.einsum("nhijc,ikc->nhijk", q, self.rel_pos_h.to(q.dtype)[offsets]).contiguous()
        columns = torch.einsum("nhijc,jkc->nhijk", q, self.rel_pos_w.to(q.dtype)[offsets]).contiguous()
        k, v = k.flatten(2, 3), v.flatten(2, 3)
        at_once = PAIRS_ON_CPU if hidden.device.type == "cpu" else PAIRS_AT_ONCE
        step = max(1, at_once // max(1, squares * self.num_heads * side**3))
        parts = zip(q.split(step, 2), rows.split(step, 2), columns.split(step, 2), strict=True)
        attended = torch.cat([self._some(q, k, v, r, c) for q, r, c in parts], 2)
        return self.proj(attended.transpose(1, 2).reshape(squares, side, side, width))

    def _some(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """What some rows of patches attend to; `rows` and `columns` are added for the row and column of each key."""
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        return F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=bias.to(q.dtype))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (segment-anything's `LayerNorm2d`)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Float[Tensor, "images channels height width"]) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def relative(side: int, device: torch.device) -> Int[Tensor, "side side"]:
    """Row of the table for every pair of places along one side."""
    places = torch.arange(side, device=device)
    return places[:, None] - places[None] + side - 1


def to_windows(hidden: Tensor, window: int) -> Tensor:
    """(images, height, width, channels) to (windows, window, window, channels), zeros beyond the right and bottom."""
    images, height, width, channels = hidden.shape
    hidden = F.pad(hidden, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = hidden.shape[1] // window, hidden.shape[2] // window
    blocks = hidden.view(images, rows, window, columns, window, channels).transpose(2, 3)
    return blocks.reshape(images * rows * columns, window, window, channels)


def from_windows(windows: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows`; what was added is cut off."""
    rows, columns = (-(-side // window) for side in size)
    images, channels = len(windows) // (rows * columns), windows.shape[-1]
    blocks = windows.view(images, rows, columns, window, window, channels).transpose(2, 3)
    return blocks.reshape(images, rows * window, columns * window, channels)[:, : size[0], : size[1]]
