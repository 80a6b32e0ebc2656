"""The generation teacher: the CLIP image encoder of Stable Diffusion 2.1 unCLIP (ViT-H/14).

The picture goes through CLIP's own preparation (shortest side 224, bicubic, centre cut out). The target is the
projected image embedding as it is, not normalised: one row.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, UInt8
from mmcore.errors import WeightsError
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.extractors import PRECISIONS
from mmcore.vision.frozen import load_published
from mmcore.vision.pixels import Pixels, as_tensor, resize
from PIL import Image
from torch import Tensor, nn

from mmcore_visper.teachers.common import PublishedTeacher

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "projection_dim", "hidden_act", "layer_norm_eps",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class GenTeacher(PublishedTeacher):
    """CLIP's vision tower with projection; the defaults are `stabilityai/stable-diffusion-2-1-unclip`."""

    name: str = "gen"
    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 1024
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    precision: str = "fp16"
    """The published run loaded the fp16 variant of this pipeline."""

    @classmethod
    def of(cls, folder: Path, **changes: Any) -> Self:
        """The teacher of a folder as transformers writes it, with the sizes its config.json names.

        Raises:
            MissingDataError: there is no such folder.
            WeightsError: its config.json is not that of a CLIP vision tower.
        """
        path = cls.existing(folder, "gen") / "config.json"
        try:
            config = json.loads(path.read_text())
            sizes = {name: config[name] for name in SIZES if name in config}
            if "hidden_size" not in sizes or "projection_dim" not in sizes:
                raise ValueError("hidden_size or projection_dim is missing")
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"not the configuration of a CLIP image encoder: {error}", where=path) from None
        return cls(weights=folder, **sizes, **changes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one target: one row of channels."""
        return 1, self.projection_dim

    @property
    def facts(self) -> Mapping[str, Any]:
        """Sizes and preparation."""
        return {"teacher": "unCLIP image encoder", **asdict(self), "weights": None}

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 side side"]:
        """Shortest side to the encoder's, bicubic, then the middle."""
        return as_tensor(centre(rgb, self.image_size))

    def build(self, published: Mapping[str, Tensor], label: str) -> "GenNetwork":
        """The network from tensors under the names of CLIP's files."""
        from transformers import CLIPVisionModelWithProjection

        tensors = {name: tensor for name, tensor in published.items() if not name.endswith("position_ids")}
        return GenNetwork(self, load_published(CLIPVisionModelWithProjection, self.config(), tensors, label))

    def config(self) -> Any:
        """The encoder's configuration for transformers."""
        from transformers import CLIPVisionConfig

        return CLIPVisionConfig(**{name: getattr(self, name) for name in SIZES})


class GenNetwork(nn.Module):
    """Bytes to image embeddings."""

    def __init__(self, teacher: GenTeacher, encoder: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.pixels = Pixels(CLIP_MEAN, CLIP_STD)
        self.encoder = encoder.to(PRECISIONS[teacher.precision])

    def forward(self, pixels: UInt8[Tensor, "images 3 side side"]) -> Float[Tensor, "images 1 channels"]:
        """One embedding per image."""
        pixel_values = self.pixels(pixels).to(PRECISIONS[self.teacher.precision])
        return self.encoder(pixel_values=pixel_values).image_embeds.float()[:, None]


def centre(rgb: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """CLIP's cut: the shortest side resized to `side` (bicubic, the other rounded down), then the middle square."""
    height, width = rgb.shape[:2]
    short, long = min(height, width), max(height, width)
    other = int(side * long / short)
    size = (side, other) if height <= width else (other, side)
    resized = resize(rgb, size, Image.Resampling.BICUBIC)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[top : top + side, left : left + side]
