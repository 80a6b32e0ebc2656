"""The depth teacher: Depth-Anything-V2's DINOv2, tapped at four blocks (Yang et al. 2024).

The picture is squashed to 336 pixels and its channels are swapped, because the published code converts "BGR to RGB"
what is RGB already; targets depend on it. Each tapped block goes through the final norm, the class token is dropped,
and the target is the mean of the taps. Probes learn the last tap alone.

transformers' Dinov2 serves, with one exception: the published code resamples the 37 x 37 positions by *scale factors*
24.1/37, which moves the sampling points. So they are resampled here, once, and the module is built for 336 pixels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from mmcore.vision.extractors import PRECISIONS
from mmcore.vision.frozen import load_published
from mmcore.vision.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels, as_tensor, resize
from mmcore.weights.maps import Rule, WeightMap
from PIL import Image
from torch import Tensor, nn

from mmcore_visper.teachers.common import PublishedTeacher

OFFSET = 0.1
"""Added to the wanted grid before it becomes a scale factor (DINOv2's guard against rounding down)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthTeacher(PublishedTeacher):
    """Depth-Anything-V2-Large; the defaults are DINOv2 ViT-L/14, layer norms with eps 1e-6, no registers."""

    name: str = "depth"
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: int = 4
    image_size: int = 518
    """Side for which the stored positions were learned, pixels."""
    patch_size: int = 14
    side: int = 336
    """Side of the picture it is shown, pixels."""
    taps: tuple[int, ...] = (4, 11, 17, 23)
    """Blocks, from 0."""
    last_only: bool = False
    """The target of probes: the last tap instead of the mean."""
    precision: str = "bf16"
    """The published run turned this teacher to bfloat16 with the model around it."""

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.side // self.patch_size

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one target: tokens in rows, channels."""
        return self.grid**2, self.width

    @property
    def facts(self) -> Mapping[str, Any]:
        """Sizes, taps and preparation."""
        return {"teacher": "Depth-Anything-V2", **asdict(self), "weights": None, "taps": list(self.taps)}

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 side side"]:
        """Squashed to a square, channels swapped."""
        squashed = resize(rgb, (self.side, self.side), Image.Resampling.BICUBIC)
        return as_tensor(squashed[..., ::-1])

    def build(self, published: Mapping[str, Tensor], label: str) -> "DepthNetwork":
        """The network from tensors under published names, `pretrained.` in front or not."""
        from transformers import Dinov2Model

        wanted = {name: tensor for name, tensor in published.items() if not name.startswith("depth_head.")}
        tensors = dinov2_names(self.depth).to_published(_bare(wanted))
        name = "embeddings.position_embeddings"
        if name in tensors:
            tensors[name] = resample_positions(tensors[name], self.grid)
        return DepthNetwork(self, load_published(Dinov2Model, self.config(), tensors, label))

    def config(self) -> Any:
        """The backbone's configuration for transformers, with positions for the picture's own grid."""
        from transformers import Dinov2Config

        return Dinov2Config(
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            image_size=self.side,
            patch_size=self.patch_size,
            layer_norm_eps=1e-6,
        )


class DepthNetwork(nn.Module):
    """Bytes to depth features."""

    def __init__(self, teacher: DepthTeacher, backbone: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.pixels = Pixels(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = backbone.to(PRECISIONS[teacher.precision])

    def forward(self, pixels: UInt8[Tensor, "images 3 side side"]) -> Float[Tensor, "images tokens channels"]:
        """Mean of the taps, or the last one."""
        taps = self.tapped(pixels)
        return taps[-1].float() if self.teacher.last_only else torch.stack(taps).float().mean(0)

    def tapped(self, pixels: Tensor) -> list[Tensor]:
        """The patch tokens of each tapped block, through the final norm."""
        states = self.backbone(
            self.pixels(pixels).to(PRECISIONS[self.teacher.precision]), output_hidden_states=True
        ).hidden_states
        return [self.backbone.layernorm(states[block + 1])[:, 1:] for block in self.teacher.taps]  # type: ignore[operator]


def resample_positions(
    positions: Float[Tensor, "1 stored channels"], grid: int
) -> Float[Tensor, "1 positions channels"]:
    """Learned positions for a grid of another size, as DINOv2's own code does: by scale factor, with the offset.

    Args:
        positions: the class token's first, then a square in rows.
        grid: wanted tokens along one side.
    """
    first, square = positions[:, :1].float(), positions[:, 1:].float()
    stored = round(square.shape[1] ** 0.5)
    if stored == grid:
        return positions
    square = square.reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / stored
    resampled = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([first, resampled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def dinov2_names(depth: int) -> WeightMap:
    """DINOv2's own names (on the left side of a `Rule`: transformers' files) and those of transformers' files."""
    blocks = [
        rule
        for i in range(depth)
        for rule in (
            Rule(f"encoder.layer.{i}.norm1.*", f"blocks.{i}.norm1.*"),
            Rule(f"encoder.layer.{i}.norm2.*", f"blocks.{i}.norm2.*"),
            Rule(f"encoder.layer.{i}.attention.output.dense.*", f"blocks.{i}.attn.proj.*"),
            Rule(f"encoder.layer.{i}.layer_scale1.lambda1", f"blocks.{i}.ls1.gamma"),
            Rule(f"encoder.layer.{i}.layer_scale2.lambda1", f"blocks.{i}.ls2.gamma"),
            Rule(f"encoder.layer.{i}.mlp.*", f"blocks.{i}.mlp.*"),
            *(
                Rule(f"encoder.layer.{i}.attention.attention.{part}.*", f"blocks.{i}.attn.{part}.*")
                for part in ("query", "key", "value")
            ),
        )
    ]
    return WeightMap(
        rules=(
            Rule("embeddings.cls_token", "cls_token"),
            Rule("embeddings.mask_token", "mask_token"),
            Rule("embeddings.position_embeddings", "pos_embed"),
            Rule("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            Rule("layernorm.*", "norm.*"),
            *blocks,
        ),
        label="Depth-Anything-V2 checkpoint",
    )


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the wrapper's prefix, the fused query-key-value matrices cut in three."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("pretrained.")
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            result |= {name.replace("qkv", part): piece for part, piece in parts}
        else:
            result[name] = tensor
    return result
