"""Pictures on their way to a network: resized by Pillow, carried as bytes, normalised on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""In fractions of full brightness."""


def resize(rgb: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image of (height, width) `size`, by Pillow, aspect ignored."""
    height, width = size
    return np.asarray(Image.fromarray(rgb).resize((width, height), how))


def as_tensor(rgb: np.ndarray) -> UInt8[Tensor, "3 height width"]:
    """Channels first, in memory of its own."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


class Pixels(nn.Module):
    """Bytes to what a network reads: divided by 255, less the mean, over the deviation, in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pixels: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        return (pixels.float() / 255 - self.mean.float()) / self.std.float()
