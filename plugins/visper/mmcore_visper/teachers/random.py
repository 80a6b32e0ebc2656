"""A teacher for the tiny variant: fixed random features of the picture, nothing to download.

    picture, side x side  ->  patches  ->  random filters, tanh  ->  local mean  ->  random mixture  ->  unit variance

The filters have no bias and tanh is odd, so features depend on what is in a patch and not on where it lies; that is
what a predictor can learn. Every target row is brought to mean 0 and variance 1, like the real teachers' normed tokens.
Weights come from a counter-based generator seeded by the task's name: the same on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from mmcore.base.hashing import name_key
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.frozen import freeze
from mmcore.vision.pixels import Pixels, as_tensor, resize
from PIL import Image
from torch import Tensor, nn

PATCH = 8
"""Pixels of the picture per target row and column."""
FILTERS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomTeacher:
    """Random features in the target shape of a task."""

    name: str
    shape: tuple[int, ...]
    """Of one target: (rows * columns, channels), (channels, rows, columns), or (1, channels) for a whole picture."""
    precision: str = "fp32"

    @property
    def as_map(self) -> bool:
        """Whether targets are maps (channels first) and not rows."""
        return len(self.shape) == 3

    @property
    def channels(self) -> int:
        """Of the target."""
        return self.shape[0] if self.as_map else self.shape[1]

    @property
    def grid(self) -> int:
        """Target rows along one side; 4 for a whole picture, whose features are averaged."""
        side = self.shape[1] if self.as_map else round(self.shape[0] ** 0.5)
        return side if side > 1 else 4

    @property
    def files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its features follow from."""
        return {
            "teacher": "random features/1",
            "name": self.name,
            "shape": list(self.shape),
            "patch": PATCH,
            "filters": FILTERS,
        }

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 side side"]:
        """Squashed to a square of `PATCH` pixels per row."""
        side = self.grid * PATCH
        return as_tensor(resize(rgb, (side, side), Image.Resampling.BICUBIC))

    def load(self) -> "RandomNetwork":
        """The filters; always the same."""
        return RandomNetwork(self)


class RandomNetwork(nn.Module):
    """Bytes to random features."""

    def __init__(self, teacher: RandomTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.pixels = Pixels(CLIP_MEAN, CLIP_STD)
        rng = np.random.Generator(np.random.Philox(name_key(f"random teacher {teacher.name}")))
        filters = rng.standard_normal((FILTERS, 3, PATCH, PATCH), dtype=np.float32) / np.float32((3 * PATCH**2) ** 0.5)
        # Whole-patch colour beside texture: without it, noise-like filters would see little of flat sample scenes.
        filters += rng.standard_normal((FILTERS, 3, 1, 1), dtype=np.float32) / np.float32(3 * PATCH**2) * PATCH
        mixture = rng.standard_normal((teacher.channels, FILTERS, 1, 1), dtype=np.float32) / np.float32(FILTERS**0.5)
        self.filters = nn.Parameter(torch.from_numpy(filters))
        self.mixture = nn.Parameter(torch.from_numpy(mixture))
        freeze(self)

    def forward(self, pixels: UInt8[Tensor, "images 3 side side"]) -> Float[Tensor, "images ..."]:
        """Targets of the teacher's shape."""
        features = F.conv2d(self.pixels(pixels), self.filters.float(), stride=PATCH).tanh()
        if self.teacher.shape[0] == 1:
            features = features.mean((2, 3), keepdim=True)
        else:
            features = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
        mixed = F.conv2d(features, self.mixture.float())
        mixed = F.layer_norm(mixed.permute(0, 2, 3, 1), (self.teacher.channels,))
        if self.teacher.as_map:
            return mixed.permute(0, 3, 1, 2).contiguous()
        return mixed.flatten(1, 2)
