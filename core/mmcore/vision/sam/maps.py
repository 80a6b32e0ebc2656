"""SAM's image encoder as a frozen network of its own, whose maps of pictures a cache may hold.

It is frozen and nothing random precedes it, so each picture's map is always the same: at the published size 2 MB in
half precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from mmcore.contract.values import SEGMENT
from mmcore.vision.extractors import PublishedExtractor
from mmcore.vision.frozen import freeze
from mmcore.vision.sam.config import SamConfig
from mmcore.vision.sam.encoder import SamEncoder
from mmcore.vision.sam.model import fixed_encoder
from mmcore.vision.sam.names import ENCODER_NAMES
from mmcore.vision.sam.pixels import normalised, padded
from mmcore.weights.maps import Rule, WeightMap

FIRST = "image_encoder.patch_embed."
"""A published name that no other network has; what stands before it is the prefix of SAM's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamMaps(PublishedExtractor):
    """SAM's image encoder, described; the same sums as the model's own under autocast."""

    WHAT: ClassVar[str] = "encoder"
    DO: ClassVar[str] = "put sam_vit_h_4b8939.pth into the folder `weights` of the data root"

    sizes: SamConfig
    random: bool = False
    """Whether it is `fixed_encoder`, whose values are drawn once and for all."""
    precision: str = "bf16"
    """In which it multiplies: as in published runs."""
    name: str = SEGMENT

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's map."""
        return self.sizes.feature_shape

    @property
    def files(self) -> tuple[Path, ...]:
        """The checkpoint; none of a drawn encoder."""
        return () if self.random else PublishedExtractor.files.fget(self)  # type: ignore[attr-defined]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What decides the maps besides the file."""
        sizes = {name: getattr(self.sizes, name) for name in self.sizes.__dataclass_fields__ if "decoder" not in name}
        return {"encoder": "SAM", "precision": self.precision, "random": self.random, **sizes}

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "4 side side"]:
        """The picture as `mmcore.vision.sam.pixels` pads it."""
        return padded(rgb, self.sizes.image_size)

    def load(self) -> nn.Module:
        """The encoder; see `mmcore.vision.extractors.Extractor.load`."""
        if self.random:
            return freeze(_Maps(fixed_encoder(self.sizes), self.precision))
        return PublishedExtractor.load(self)

    def build(self, published: Mapping[str, Tensor], label: str) -> nn.Module:
        """The encoder from SAM's own file, or from one of a model that holds SAM."""
        prefix = next((name.split(FIRST)[0] for name in published if FIRST in name), "")
        encoder = SamEncoder(self.sizes)
        rules = [Rule(f"{prefix}{a}", b.removeprefix("image_encoder.")) for a, b in ENCODER_NAMES.items()]
        names = WeightMap(rules=tuple(rules), ignored=("*",), label=label)
        encoder.load_state_dict(names.to_ours(published, encoder.state_dict())[0])
        return freeze(_Maps(encoder, self.precision))


class _Maps(nn.Module):
    """Bytes to maps in float32, multiplied in some precision."""

    def __init__(self, encoder: SamEncoder, precision: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def forward(self, pixels: UInt8[Tensor, "images 4 side side"]) -> Tensor:
        with torch.autocast(pixels.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.encoder(normalised(pixels)).float()
