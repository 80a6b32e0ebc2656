"""Pixels for CLIP towers: to a square of one size, as the published processors did it with Pillow, then normalised.

    crop (also: square)   shortest side to the size, middle cut out      CLIP, LLaVA's first stage
    pad                   centred on a square of the mean colour first   LLaVA-1.5
    squash                both sides to the size, aspect ratio lost      Griffon

Two libraries end differently in the last bit, and both were used: transformers' Pillow processors (rescale in float64,
normalise in float32, the middle rounded down) and torchvision as open_clip calls it (float32 throughout, the middle
rounded to even). A byte has 256 values, so either arithmetic becomes a table.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mmcore.contract.values import Box
from mmcore.errors import DataError, RecipeError, suggest

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, in fractions of full brightness."""

MODES = ("crop", "square", "pad", "squash")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MAX_ASPECT = 200
"""Sides that differ more often would make a resized image of gigabytes."""


@dataclass(frozen=True, slots=True)
class ClipImages:
    """An RGB image to what a CLIP tower takes.

    Raises:
        RecipeError: the mode does not exist.
    """

    size: int
    """Side of the result, pixels."""
    mode: str = "crop"
    """One of `MODES`; "square" is LLaVA's word for crop."""
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    library: Literal["transformers", "torchvision"] = "transformers"
    """Whose arithmetic and whose middle."""
    _table: Float[np.ndarray, "3 256"] = field(init=False, repr=False, compare=False)
    """Value of every byte in every channel, float32."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RecipeError(
                f"there is no image mode {self.mode!r}",
                where="model.image_aspect",
                known=MODES,
                do=suggest(self.mode, MODES, "choose one of these"),
            )
        object.__setattr__(self, "_table", _table(self.mean, self.std, self.library))

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 size size"]:
        """The normalised image.

        Raises:
            DataError: the image is far too narrow to be cut or padded to a square.
        """
        pixels = np.asarray(self.resized(image))
        result = np.empty((3, self.size, self.size), np.float32)
        for channel in range(3):
            np.take(self._table[channel], pixels[..., channel], out=result[channel])
        return torch.from_numpy(result)

    def resized(self, image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
        """The square before normalisation, as a picture.

        Raises:
            DataError: as when called.
        """
        picture = Image.fromarray(image)
        if self.mode == "squash":
            return picture.resize((self.size, self.size), FILTERS[self.resample])
        short, long = sorted(picture.size)
        if long > MAX_ASPECT * short:
            raise DataError(
                f"the image is {picture.width}x{picture.height}; its sides differ more than {MAX_ASPECT} times",
                do="leave this image out, or choose the mode squash",
            )
        if self.mode == "pad":
            picture = pad_to_square(picture, self.mean)
        return self._crop(self._shortest_to_size(picture))

    def place(self, height: int, width: int) -> Box:
        """Where the whole of a picture lies: xyxy, pixels of the square, beyond it where the picture is cut.

        Args:
            height: of the picture on disk, pixels.
            width: of the picture on disk, pixels.
        """
        if self.mode == "squash":
            return 0.0, 0.0, float(self.size), float(self.size)
        if self.mode == "pad":
            long = max(height, width)
            left, top = (long - width) // 2, (long - height) // 2
            scale = self.size / long
            return left * scale, top * scale, (left + width) * scale, (top + height) * scale
        across, down = self._shortest(width, height)
        left, top = (-self._middle(side - self.size) for side in (across, down))
        return float(left), float(top), float(left + across), float(top + down)

    def _shortest(self, width: int, height: int) -> tuple[int, int]:
        """Width and height once the shortest side has the size."""
        long = int(self.size * max(width, height) / min(width, height))
        return (long, self.size) if width > height else (self.size, long)

    def _shortest_to_size(self, picture: Image.Image) -> Image.Image:
        return picture.resize(self._shortest(*picture.size), FILTERS[self.resample])

    def _crop(self, picture: Image.Image) -> Image.Image:
        left, top = (self._middle(side - self.size) for side in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))

    def _middle(self, rest: int) -> int:
        return rest // 2 if self.library == "transformers" else round(rest / 2)


def pad_to_square(picture: Image.Image, mean: tuple[float, float, float] = CLIP_MEAN) -> Image.Image:
    """The picture in the middle of a square of the mean colour, 255·mean rounded down (LLaVA-1.5)."""
    side = max(picture.size)
    if picture.width == picture.height:
        return picture
    canvas = Image.new(picture.mode, (side, side), tuple(int(value * 255) for value in mean))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def _table(mean: tuple[float, ...], std: tuple[float, ...], library: str) -> Float[np.ndarray, "3 256"]:
    values = np.arange(256)
    if library == "transformers":
        scaled = (values.astype(np.float64) * (1 / 255)).astype(np.float32)
    else:
        scaled = values.astype(np.float32) / np.float32(255)
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    return (scaled - means[:, None]) / stds[:, None]
