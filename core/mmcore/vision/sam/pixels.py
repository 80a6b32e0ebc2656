"""What SAM's image encoder takes: a picture with its longest side enlarged, in the corner of a square.

Pictures travel as bytes with a fourth channel that says where picture is; they become numbers on the device.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mmcore.geometry.square import frame

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""In grey levels."""


def padded(rgb: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[Tensor, "4 side side"]:
    """A picture with its longest side at `side` pixels in the corner of a square; 1 in the last channel where it is.

    Resized by Pillow, bilinear, as segment-anything's `ResizeLongestSide`.
    """
    height, width = frame((rgb.shape[0], rgb.shape[1]), side).resized
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
    result = torch.zeros(4, side, side, dtype=torch.uint8)
    result[:3, :height, :width] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    result[3, :height, :width] = 1
    return result


def normalised(pixels: UInt8[Tensor, "images 4 side side"]) -> Float[Tensor, "images 3 side side"]:
    """What the image encoder takes: normalised where picture is, 0 elsewhere."""
    mean, std = (pixels.new_tensor(numbers, dtype=torch.float32).view(3, 1, 1) for numbers in (MEAN, STD))
    return (pixels[:, :3].float() - mean) / std * pixels[:, 3:]
