"""Pixel decoder (MaskDINO's encoder): four feature levels exchange what they see, and mask features come out.

Levels run from fine to coarse, strides 8, 16, 32 and 64, laid end to end. Batches are padded, but as published every
pixel counts as valid: no padding mask exists anywhere.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcore_glee.config import GleeConfig
from mmcore_glee.deformable import DeformableAttention, Shapes
from mmcore_glee.layers import FeedForward, dropped, sine_positions

GROUPS = 32
"""Of every group norm."""


class EncoderLayer(nn.Module):
    """Deformable self-attention over the pixels of all levels, then a feed-forward layer; norms come after.

    Args:
        config: sizes.
    """

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        heads, points = config.encoder_heads, config.encoder_points
        self.self_attn = DeformableAttention(dim, config.num_levels, heads, points, triton=config.triton)
        self.norm1 = nn.LayerNorm(dim)
        self.dropout = config.encoder_dropout
        self.ffn = FeedForward(dim, config.encoder_ffn, self.dropout)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        x = self.norm1(x + self._dropped(self.self_attn(x + position, reference, x, shapes)))
        return self.norm2(x + self._dropped(self.ffn(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout, self.training)


class PixelDecoder(nn.Module):
    """Project the backbone's maps, let the levels attend to one another, and make mask features at the finest stride.

    Args:
        config: sizes.
        channels: of the backbone's maps at strides 4, 8, 16 and 32; of a feature pyramid at 8, 16, 32 and 64, which
            needs no projection.
    """

    def __init__(self, config: GleeConfig, channels: Sequence[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.pyramid = config.backbone == "eva"
        self.num_projected = config.num_levels if self.pyramid else len(channels) - 1
        convolutions: list[nn.Conv2d] = []
        if not self.pyramid:
            convolutions += [nn.Conv2d(inputs, dim, 1) for inputs in channels[1:]]
            convolutions += [
                nn.Conv2d(channels[-1] if i == 0 else dim, dim, 3, 2, 1)
                for i in range(config.num_levels - len(convolutions))
            ]
        self.input_proj = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(GROUPS, dim)) for conv in convolutions)
        self.level_embed = nn.Parameter(torch.randn(config.num_levels, dim))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.adapter = nn.Conv2d(channels[0], dim, 1, bias=False)
        self.adapter_norm = nn.GroupNorm(GROUPS, dim)
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.smooth_norm = nn.GroupNorm(GROUPS, dim)
        self.mask_features = nn.Conv2d(dim, config.mask_dim, 1)
        self._reset()

    def project(self, features: Sequence[Tensor]) -> tuple[Float[Tensor, "batch pixels dim"], Shapes]:
        """Pixels of all levels end to end, and the size of each level.

        Args:
            features: the backbone's maps from fine to coarse; stride 4 has no part in it.
        """
        maps: list[Tensor] = list(features) if self.pyramid else []
        for i, layer in enumerate(self.input_proj):
            source = features[i + 1] if i + 1 < len(features) else (maps[-1] if i >= len(features) else features[-1])
            maps.append(layer(source))
        maps = maps[: self.num_projected] + maps[self.num_projected :][::-1]
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1), shapes

    def forward(
        self, pixels: Float[Tensor, "batch pixels dim"], shapes: Shapes, finest: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch pixels dim"], Float[Tensor, "batch mask_dim h w"]]:
        """Encoded pixels of all levels, and mask features at the size of `finest`.

        Args:
            pixels: from `project`, after the fusion with text.
            shapes: size of each level.
            finest: the backbone's map at the smallest stride, 4 or a pyramid's 8.
        """
        position = self._positions(shapes, pixels)
        reference = _centres(shapes, pixels)
        for layer in self.layers:
            pixels = layer(pixels, position, reference, shapes)
        height, width = shapes[0]
        first = pixels[:, : height * width].transpose(1, 2).unflatten(-1, (height, width))
        upsampled = F.interpolate(first, size=finest.shape[-2:], mode="bilinear", align_corners=False)
        smooth = self.smooth(self.adapter_norm(self.adapter(finest)) + upsampled)
        return pixels, self.mask_features(F.relu_(self.smooth_norm(smooth)))

    def _positions(self, shapes: Shapes, like: Tensor) -> Float[Tensor, "pixels dim"]:
        # As published, levels added below the backbone's stand in reverse, their positions do not.
        shapes = (*shapes[: self.num_projected], *shapes[self.num_projected :][::-1])
        levels = [sine_positions(h, w, like.shape[-1], like.device).to(like.dtype) for h, w in shapes]
        return torch.cat([level + embed for level, embed in zip(levels, self.level_embed, strict=True)])

    def _reset(self) -> None:
        for module in (*self.input_proj.modules(), self.adapter, self.smooth, self.mask_features):
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            nn.init.xavier_uniform_(layer.ffn.linear1.weight)
            nn.init.xavier_uniform_(layer.ffn.linear2.weight)


def _centres(shapes: Shapes, like: Tensor) -> Float[Tensor, "1 pixels 1 2"]:
    """Pixel centres of all levels as fractions (x, y) of the map."""
    levels = []
    for height, width in shapes:
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        levels.append(torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).flatten(0, 1))
    return torch.cat(levels)[None, :, None]
