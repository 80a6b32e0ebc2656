"""Image encoder of GLEE Pro: EVA02-L (Fang et al. 2023) with a simple feature pyramid (Li et al. 2022, ViTDet).

    patches 16x16 -> 24 blocks, two of three within windows -> last map ─┬─ twice the size ─ p3   stride  8
                                                                        ├─ as it is ─────── p4          16
                                                                        ├─ half ─────────── p5          32
                                                                        └─ every second pixel of p5 ─ p6 64

Parameters are named as in the published checkpoints. Rotary tables follow from the sizes and are not saved. As
published, a map that is not as large as the table of the blocks without windows reads the table's first rows, whatever
its shape, so that positions are the trained ones at the full square only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from mmcore.errors import DataError
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from mmcore_glee.config import GleeConfig
from mmcore_glee.swin import from_windows, to_windows

EPS = 1e-6
"""Of every norm of this backbone."""
PRETRAINED_GRID = 14
"""Side of the grid of learned positions, tokens; one more position belongs to a class token that GLEE lacks."""
ROTARY_GRID = 16
"""Side of the grid over which rotary positions count, whatever the number of tokens."""
THETA = 10_000.0

Map = Float[Tensor, "batch height width channels"]
Table = Float[Tensor, "tokens head_dim"]


def rotary_table(side: int, head_dim: int) -> tuple[Table, Table]:
    """Cosines and sines of every token of a square grid: half the channels tell the row, the other half the column.

    Args:
        side: of the grid, tokens.
        head_dim: channels of an attention head; neighbouring ones are turned together.
    """
    axis = head_dim // 2
    frequencies = 1.0 / THETA ** (torch.arange(0, axis, 2)[: axis // 2].float() / axis)
    places = torch.arange(side) / side * ROTARY_GRID
    angles = (places[:, None] * frequencies).repeat_interleave(2, dim=-1)
    rows, columns = torch.broadcast_tensors(angles[:, None], angles[None])
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return table.cos(), table.sin()


def turn(x: Float[Tensor, "*batch tokens channels"], cos: Table, sin: Table) -> Float[Tensor, "*batch tokens channels"]:
    """Rotate neighbouring channels by the angles of each token."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin


class Attention(nn.Module):
    """Multi-head attention over the tokens of a map or of its windows, with rotary positions; keys have no bias.

    Args:
        channels: of a token.
        heads: number of heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "groups tokens channels"], cos: Table, sin: Table) -> Tensor:
        q = F.linear(x, self.q_proj.weight, self.q_bias)
        k = self.k_proj(x)
        v = F.linear(x, self.v_proj.weight, self.v_bias)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        q, k = (turn(part, cos, sin).to(v.dtype) for part in (q, k))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """Two linear layers whose outputs are multiplied, one through SiLU (SwiGLU), a norm and a third.

    Args:
        channels: in and out.
        hidden: between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(channels, hidden)
        self.w2 = nn.Linear(channels, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=EPS)
        self.w3 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class EvaBlock(nn.Module):
    """Attention and a gated MLP around which the input is added.

    Args:
        config: sizes.
        window: side of a window, tokens; 0 attends over the whole map.
        drop_path: probability that a sample skips a branch while training.
    """

    def __init__(self, config: GleeConfig, window: int, drop_path: float) -> None:
        super().__init__()
        width = config.eva_width
        self.window, self.drop_path = window, drop_path
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, config.eva_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = GatedMlp(width, int(width * config.eva_mlp_ratio))

    def forward(self, x: Map, cos: Table, sin: Table) -> Map:
        """One block over a map, with the rotary table of a window or of the whole map."""
        x = x + self._dropped(self._attended(self.norm1(x), cos, sin))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _attended(self, x: Map, cos: Table, sin: Table) -> Map:
        batch, height, width = x.shape[:3]
        if not self.window:
            return self.attn(x.flatten(1, 2), cos[: height * width], sin[: height * width]).view(x.shape)
        # As published, the tokens that fill up the last windows are looked at like any other.
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        mixed = self.attn(to_windows(x, self.window).flatten(0, 1), cos, sin).unflatten(0, (batch, -1))
        return from_windows(mixed, self.window, x.shape[1])[:, :height, :width]

    def _dropped(self, x: Tensor) -> Tensor:
        return stochastic_depth(x, self.drop_path, "row", self.training) if self.drop_path else x


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch, patch)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Map:
        return self.proj(images).permute(0, 2, 3, 1)


class EvaVit(nn.Module):
    """EVA02's vision transformer without class token and without final norm.

    Args:
        config: the `eva_*` entries are used.
    """

    window_cos: Tensor
    window_sin: Tensor
    global_cos: Tensor
    global_sin: Tensor

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        width, depth = config.eva_width, config.eva_depth
        self.side = config.eva_image_size // config.eva_patch
        self.patch_embed = PatchEmbed(width, config.eva_patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, PRETRAINED_GRID**2 + 1, width))
        drops = [config.eva_drop_path * i / max(depth - 1, 1) for i in range(depth)]
        windows = [config.eva_window if i in config.eva_window_blocks else 0 for i in range(depth)]
        self.blocks = nn.ModuleList(EvaBlock(config, window, drop) for window, drop in zip(windows, drops, strict=True))
        for kind, grid in (("window", config.eva_window), ("global", self.side)):
            cos, sin = rotary_table(grid, width // config.eva_heads)
            self.register_buffer(f"{kind}_cos", cos, persistent=False)
            self.register_buffer(f"{kind}_sin", sin, persistent=False)
        self._reset()

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """The last block's map.

        Raises:
            DataError: an image has more tokens than the table of rotary positions has rows.
        """
        x = self.patch_embed(images)
        if x.shape[1] * x.shape[2] > self.side**2:
            raise DataError(
                f"images of {images.shape[2]}x{images.shape[3]} have more than the {self.side**2} patches this model "
                "has positions for",
                do="make test_max_size and image_size of data.transform smaller, or model.eva_image_size larger",
            )
        x = x + self._positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            assert isinstance(block, EvaBlock)
            kind = (self.window_cos, self.window_sin) if block.window else (self.global_cos, self.global_sin)
            x = block(x, *kind)
        return x.permute(0, 3, 1, 2)

    def _positions(self, height: int, width: int) -> Float[Tensor, "1 height width channels"]:
        """The learned positions, stretched to the map."""
        grid = self.pos_embed[:, 1:].unflatten(1, (PRETRAINED_GRID, PRETRAINED_GRID))
        if (height, width) == (PRETRAINED_GRID, PRETRAINED_GRID):
            return grid
        stretched = F.interpolate(grid.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False)
        return stretched.permute(0, 2, 3, 1)

    def _reset(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormedConv(nn.Conv2d):
    """A convolution without bias, then a norm over channels; named as detectron2 names it."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(inputs, outputs, side, padding=side // 2, bias=False)
        self.norm = ChannelNorm(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Eva(nn.Module):
    """EVA02 and its feature pyramid; outputs at strides 8, 16, 32 and 64 of `hidden_dim` channels each.

    Args:
        config: the `eva_*` entries are used.
    """

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        width, dim = config.eva_width, config.hidden_dim
        self.channels = (dim,) * 4
        self.net = EvaVit(config)
        self.simfp_3 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, 2), NormedConv(width // 2, dim, 1), NormedConv(dim, dim, 3)
        )
        self.simfp_4 = nn.Sequential(NormedConv(width, dim, 1), NormedConv(dim, dim, 3))
        self.simfp_5 = nn.Sequential(nn.MaxPool2d(2, 2), NormedConv(width, dim, 1), NormedConv(dim, dim, 3))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of normalised images.

        Args:
            images: (batch, 3, height, width), RGB with mean 0 and deviation 1; sides are multiples of 32.

        Returns:
            Feature maps at strides 8, 16, 32 and 64.
        """
        x = self.net(images)
        half = self.simfp_5(x)
        return self.simfp_3(x), self.simfp_4(x), half, F.max_pool2d(half, 1, 2)
