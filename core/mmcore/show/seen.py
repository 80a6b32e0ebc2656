"""A picture as a tower sees it, for regions to be drawn on: in the tower's own frame, what was cut off in grey around.

pad, squash    the tower's square
crop           longer than the square, a thin line where it ends
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from mmcore.contract.values import Box, Region, VisualPrompt
from mmcore.data.visual import prompt_mask
from mmcore.show.marks import PALETTE, SMALLEST_SIDE, Mark

UNSEEN, EDGE = (128, 128, 128), (245, 245, 245)
PROMPT = PALETTE[-1]


@dataclass(frozen=True)
class Seen:
    """What a tower sees, enlarged, and where the whole picture lies."""

    picture: Image.Image
    place: Box
    """Of the whole picture, pixels of `picture`."""
    size: tuple[int, int]
    """Height and width of the picture on disk, pixels."""

    def box(self, box: Box) -> Box:
        """A box in pixels of the picture on disk, in pixels of the one that is drawn on."""
        left, top, right, bottom = self.place
        across, down = (right - left) / self.size[1], (bottom - top) / self.size[0]
        return left + box[0] * across, top + box[1] * down, left + box[2] * across, top + box[3] * down

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the picture on disk, for the one that is drawn on."""
        left, top, right, bottom = (round(side) for side in self.place)
        small = Image.fromarray((mask != 0).astype(np.uint8)).resize((right - left, bottom - top), Image.Resampling.BOX)
        canvas = Image.new("L", self.picture.size)
        canvas.paste(small, (left, top))
        return np.asarray(canvas)

    def region(self, region: Region) -> Region:
        """A region of the picture on disk, on the one that is drawn on."""
        box = None if region.box_xyxy is None else self.box(region.box_xyxy)
        mask = None if region.mask is None else torch.from_numpy(self.mask(region.mask.cpu().numpy()).copy())
        return Region(box, mask, region.text, region.track_id)

    def prompt(self, prompt: VisualPrompt) -> Mark:
        """What was pointed at: a box dashed, anything else as its mask."""
        if prompt.kind == "box" and prompt.points_xy is not None:
            left, top, right, bottom = prompt.points_xy.flatten().tolist()
            return Mark(PROMPT, self.box((left, top, right, bottom)), label="shown", given=True)
        return Mark(PROMPT, mask=self.mask(prompt_mask(prompt, self.size)), label="shown", given=True)


def seen(view: Image.Image, place: Box, size: tuple[int, int]) -> Seen:
    """The picture to draw on.

    Args:
        view: the square that the tower sees.
        place: where the whole picture lies in it, pixels; `ClipImages.place`.
        size: height and width of the picture on disk, pixels.
    """
    left, top = (min(0, round(side)) for side in place[:2])
    right, bottom = (max(side, round(end)) for side, end in zip(view.size, place[2:], strict=True))
    scale = max(1, math.ceil(SMALLEST_SIDE / (right - left)))
    canvas = Image.new("RGB", ((right - left) * scale, (bottom - top) * scale), UNSEEN)
    large = view.convert("RGB").resize((view.width * scale, view.height * scale), Image.Resampling.NEAREST)
    canvas.paste(large, (-left * scale, -top * scale))
    if canvas.size != large.size:
        corner = (-left * scale, -top * scale)
        edge = (*corner, corner[0] + large.width - 1, corner[1] + large.height - 1)
        ImageDraw.Draw(canvas).rectangle(edge, outline=EDGE)
    moved = [(side - start) * scale for side, start in zip(place, (left, top, left, top), strict=True)]
    return Seen(canvas, (moved[0], moved[1], moved[2], moved[3]), size)
