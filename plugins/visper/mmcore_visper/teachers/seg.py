"""The segmentation teacher: the Swin backbone of OneFormer (Jain et al. 2023), COCO panoptic, Swin-L.

The picture is squashed to 768 pixels and then resized as OneFormer's processor does (shortest side 800). The target is
the backbone's last feature map with its norm, bilinear to 24 x 24. Neither pixel decoder nor transformer is built.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from mmcore.errors import WeightsError
from mmcore.vision.extractors import PRECISIONS
from mmcore.vision.frozen import load_published
from mmcore.vision.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels, as_tensor, resize
from PIL import Image
from torch import Tensor, nn

from mmcore_visper.teachers.common import PublishedTeacher

PREFIX = "pixel_level_module.encoder."
LAST_NORM = "hidden_states_norms.stage4."


@dataclass(frozen=True, kw_only=True, slots=True)
class SegTeacher(PublishedTeacher):
    """OneFormer's backbone; the defaults are `shi-labs/oneformer_coco_swin_large`."""

    name: str = "seg"
    embed_dim: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (6, 12, 24, 48)
    window_size: int = 12
    side: int = 768
    """Side to which the picture is squashed first, pixels."""
    shortest: int = 800
    longest: int = 1333
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    grid: int = 24
    """Target rows and columns."""
    precision: str = "bf16"
    """The published run turned this teacher to bfloat16 with the model around it."""

    @classmethod
    def of(cls, folder: Path, **changes: Any) -> Self:
        """The teacher of a folder as transformers writes it, with the sizes its files name.

        Raises:
            MissingDataError: there is no such folder.
            WeightsError: its config.json is not OneFormer's with a Swin backbone.
        """
        path = cls.existing(folder, "seg") / "config.json"
        try:
            config = json.loads(path.read_text())["backbone_config"]
            sizes: dict[str, Any] = {
                "embed_dim": int(config["embed_dim"]),
                "depths": tuple(config["depths"]),
                "num_heads": tuple(config["num_heads"]),
                "window_size": int(config["window_size"]),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"not the configuration of OneFormer with Swin: {error}", where=path) from None
        return cls(weights=folder, **sizes, **_processor(folder / "preprocessor_config.json"), **changes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one target: channels, rows, columns."""
        return self.embed_dim * 2 ** (len(self.depths) - 1), self.grid, self.grid

    @property
    def facts(self) -> Mapping[str, Any]:
        """Sizes and preparation."""
        return json.loads(json.dumps({"teacher": "OneFormer", **asdict(self), "weights": None}))

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 side side"]:
        """Squashed (bicubic), then resized by the processor's rule (bilinear)."""
        squashed = resize(rgb, (self.side, self.side), Image.Resampling.BICUBIC)
        # The processor's rule for a square: the shortest side, but never beyond the longest allowed.
        final = min(self.shortest, self.longest)
        return as_tensor(resize(squashed, (final, final), Image.Resampling.BILINEAR))

    def build(self, published: Mapping[str, Tensor], label: str) -> "SegNetwork":
        """The network from tensors under the names of OneFormer's files, `model.` in front or not."""
        from transformers import SwinBackbone

        bare = {name.removeprefix("model."): tensor for name, tensor in published.items()}
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in bare.items() if name.startswith(PREFIX)}
        return SegNetwork(self, load_published(SwinBackbone, self.config(), _used(tensors), label))

    def config(self) -> Any:
        """The backbone's configuration for transformers."""
        from transformers import SwinConfig

        config = SwinConfig(
            embed_dim=self.embed_dim,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=self.window_size,
        )
        config.out_features = ["stage4"]
        return config


class SegNetwork(nn.Module):
    """Bytes to segmentation features."""

    def __init__(self, teacher: SegTeacher, backbone: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.pixels = Pixels(teacher.mean, teacher.std)
        self.backbone = backbone.to(PRECISIONS[teacher.precision])

    def forward(self, pixels: UInt8[Tensor, "images 3 side side"]) -> Float[Tensor, "images channels grid grid"]:
        """The last feature map at the target's size."""
        pixel_values = self.pixels(pixels).to(PRECISIONS[self.teacher.precision])
        last = self.backbone(pixel_values).feature_maps[-1].float()
        return F.interpolate(last, (self.teacher.grid, self.teacher.grid), mode="bilinear", align_corners=False)


def _used(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the norms of earlier maps, which nothing reads, and index tables that are computed."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith("relative_position_index")
        and (not name.startswith("hidden_states_norms.") or name.startswith(LAST_NORM))
    }


def _processor(path: Path) -> dict[str, Any]:
    """The image processor's numbers where its file is there; the published ones otherwise."""
    if not path.is_file():
        return {}
    try:
        given = json.loads(path.read_text())
        size = given.get("size", {})
        found = {"shortest": size.get("shortest_edge"), "longest": size.get("longest_edge")}
        found |= {"mean": given.get("image_mean"), "std": given.get("image_std")}
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"not the configuration of an image processor: {error}", where=path) from None
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items() if v is not None}
