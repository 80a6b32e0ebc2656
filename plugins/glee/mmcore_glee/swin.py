"""Image encoder of GLEE Plus: Swin Transformer (Liu et al. 2021), Swin-L with windows of 12.

    patches 4x4 -> stage 1 -> merge 2x2 -> stage 2 -> merge -> stage 3 -> merge -> stage 4
                     │ norm                  │ norm              │ norm              │ norm
                   stride 4                 8                   16                  32

Parameters are named as in the published checkpoints. All windows go through one fused attention, with the position bias
and, where windows were moved, the border mask as its additive mask.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from mmcore_glee.config import GleeConfig

PATCH = 4
"""Side of a patch, pixels."""
APART = -100.0
"""Added to the attention between regions that only the cyclic shift brought into one window."""

Map = Float[Tensor, "batch height width channels"]


def relative_position_index(window: int) -> Int[Tensor, "tokens tokens"]:
    """Row of the bias table for every pair of tokens of a window: one per offset in y and x."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()])
    dy, dx = places[:, :, None] - places[:, None, :] + window - 1
    return dy * (2 * window - 1) + dx


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for every offset between two tokens.

    Args:
        channels: of a token.
        heads: number of heads.
        config: side of a window, and how queries and keys are made and scaled.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, config: GleeConfig) -> None:
        super().__init__()
        self.heads, self.scale = heads, config.swin_qk_scale
        window = config.swin_window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels, bias=config.swin_qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "batch windows tokens channels"], apart: Tensor | None) -> Tensor:
        """Mix the tokens of every window.

        Args:
            x: tokens by window.
            apart: (windows, tokens, tokens), added to the attention of every head; None adds nothing.
        """
        batch, windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        mask = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if apart is None:  # one mask for all windows, which count as samples
            q, k, v = qkv.flatten(1, 2)
        else:  # one for every window, whose heads count as heads of the sample
            q, k, v = qkv.flatten(2, 3)
            mask = (mask + apart[:, None]).flatten(0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None].to(q.dtype), scale=self.scale)
        y = y.reshape(batch, windows, self.heads, tokens, -1).transpose(2, 3).reshape(batch, windows, tokens, channels)
        return self.proj(y)


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention and an MLP around which the input is added.

    Args:
        channels: of a token.
        heads: number of heads.
        config: side of a window, and sizes of attention and MLP.
        shift: how far the windows are moved, tokens; 0 or half a window.
        drop_path: probability that a sample skips a branch while training.
    """

    def __init__(self, channels: int, heads: int, config: GleeConfig, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = config.swin_window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, config)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * config.swin_mlp_ratio))

    def forward(self, x: Map, apart: Tensor) -> Map:
        """One block over a map; `apart` is `border_mask` of the padded map."""
        x = x + self._dropped(self._attended(self.norm1(x), apart if self.shift else None))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _attended(self, x: Map, apart: Tensor | None) -> Map:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = from_windows(self.attn(to_windows(x, self.window), apart), self.window, x.shape[1])
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _dropped(self, x: Tensor) -> Tensor:
        return stochastic_depth(x, self.drop_path, "row", self.training) if self.drop_path else x


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Map) -> Map:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        batch, height, width, channels = x.shape
        # Order of the four: top left, bottom left, top right, bottom right.
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks of one resolution, every second one with moved windows, and the way to the next resolution."""

    def __init__(self, channels: int, heads: int, config: GleeConfig, drop_paths: list[float], last: bool) -> None:
        super().__init__()
        self.window = config.swin_window
        shifts = [0 if i % 2 == 0 else self.window // 2 for i in range(len(drop_paths))]
        self.blocks = nn.ModuleList(
            Block(channels, heads, config, shift, drop) for shift, drop in zip(shifts, drop_paths, strict=True)
        )
        self.downsample = None if last else PatchMerging(channels)

    def forward(self, x: Map) -> Map:
        apart = border_mask(x.shape[1], x.shape[2], self.window, x.device)
        for block in self.blocks:
            x = block(x, apart)
        return x


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Map:
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % PATCH, 0, -height % PATCH))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Four stages of window attention; outputs at strides 4, 8, 16 and 32.

    Args:
        config: the `swin_*` entries are used.
    """

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        self.channels = config.feature_channels
        self.patch_embed = PatchEmbed(self.channels[0], norm=config.swin_patch_norm)
        last = sum(config.swin_depths) - 1
        drops = [config.swin_drop_path * i / last for i in range(last + 1)]
        stages = []
        for i, (depth, heads) in enumerate(zip(config.swin_depths, config.swin_heads, strict=True)):
            start = sum(config.swin_depths[:i])
            drop_paths = drops[start : start + depth]
            stages.append(Stage(self.channels[i], heads, config, drop_paths, last=i == 3))
            self.add_module(f"norm{i}", nn.LayerNorm(self.channels[i]))
        self.layers = nn.ModuleList(stages)
        self._reset()

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of normalised images.

        Args:
            images: (batch, 3, height, width), RGB with mean 0 and deviation 1; any size.

        Returns:
            Feature maps at strides 4, 8, 16 and 32, sides rounded up.
        """
        x = self.patch_embed(images)
        maps = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(cast(nn.Module, getattr(self, f"norm{i}"))(x).permute(0, 3, 1, 2).contiguous())
            downsample = cast(Stage, stage).downsample
            if downsample is not None:
                x = downsample(x)
        first, second, third, fourth = maps
        return first, second, third, fourth

    def _reset(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


def to_windows(x: Map, window: int) -> Float[Tensor, "batch windows tokens channels"]:
    """Cut a map whose sides are multiples of `window`; windows in rows."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels).transpose(2, 3)
    return x.reshape(batch, -1, window * window, channels)


def from_windows(x: Float[Tensor, "batch windows tokens channels"], window: int, height: int) -> Map:
    """The inverse of `to_windows`."""
    batch, windows, _, channels = x.shape
    rows = height // window
    x = x.view(batch, rows, windows // rows, window, window, channels).transpose(2, 3)
    return x.reshape(batch, height, -1, channels)


def border_mask(height: int, width: int, window: int, device: torch.device) -> Float[Tensor, "windows tokens tokens"]:
    """What keeps tokens apart that lie beside one another only because the map was rolled.

    Args:
        height: of the map before it is padded to whole windows.
        width: of that map.
        window: side of a window, tokens; windows are moved by half of it.
        device: where the mask is needed.
    """
    height, width = height + -height % window, width + -width % window
    shift = window // 2
    strips = [
        (torch.arange(side, device=device) >= side - window).int()
        + (torch.arange(side, device=device) >= side - shift).int()
        for side in (height, width)
    ]
    regions = (3 * strips[0][:, None] + strips[1])[None, :, :, None]
    cut = to_windows(regions, window)[0, :, :, 0]
    return (cut[:, None, :] != cut[:, :, None]).float() * APART
