"""Coordinates as people and models write them: what four numbers mean, from and to pixels.

Inside mmcore a box is xyxy in pixels of the original image. COCO's xywh, YOLO's centres, fractions, 0 to 1000 and
fractions of a padded square are each a `Convention`, converted here and nowhere else. How boxes and names stand in a
text is `mmcore.geometry.box_text`.

Rounding is the only loss: `Convention.max_error` states it in pixels, for every corner of a box inside its image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from mmcore.errors import RecipeError, suggest

Boxes = Float64[np.ndarray, "boxes 4"]
Quadruple = Float64[np.ndarray, "4"]
Size = tuple[float, float]
"""Height and width, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """What the four numbers of a box mean.

    Attributes:
        layout: xyxy, xywh (corner and size), cxcywh (centre and size), or yxyx.
        scale: the number at the far edge of the frame: 1 for fractions, 1000, or (height, width) of a resized image in
            whose pixels the numbers are; None for pixels of the original image.
        decimals: digits after the point; None keeps every digit.
        frame: what the numbers are measured in: the image, or the square that it is padded to, on all sides (`centred`,
            as LLaVA pads) or on the right and bottom only (`cornered`).
    """

    layout: Literal["xyxy", "xywh", "cxcywh", "yxyx"] = "xyxy"
    scale: float | tuple[float, float] | None = None
    decimals: int | None = None
    frame: Literal["image", "centred", "cornered"] = "image"

    def from_pixels(self, boxes_xyxy: Boxes, size: Size) -> Boxes:
        """The part of each box inside the image as numbers of this convention, rounded.

        Args:
            boxes_xyxy: pixels of the original image.
            size: of the original image.
        """
        height, width = size
        inside = np.clip(np.asarray(boxes_xyxy, np.float64), 0.0, (width, height, width, height))
        offset, frame, scale = self._frame(size)
        # Divided first and scaled after: published code rounds fractions.
        numbers = _arranged((inside + offset) / frame * scale, self.layout)
        return numbers if self.decimals is None else _rounded(numbers, self.decimals)

    def to_pixels(self, numbers: Boxes, size: Size) -> Boxes:
        """Numbers of this convention as xyxy pixels of the original image; neither clipped nor put in order.

        Args:
            numbers: one row a box.
            size: of the original image.
        """
        offset, frame, scale = self._frame(size)
        return _corners(np.asarray(numbers, np.float64), self.layout) / scale * frame - offset

    def max_error(self, size: Size) -> tuple[float, float]:
        """How far x and y of a corner may be off after writing and reading, pixels of the original image.

        Half a unit of the last digit, in pixels; twice that at the right and bottom of xywh, one and a half times for
        cxcywh, whose corners are made of two rounded numbers.
        """
        if self.decimals is None:
            return 0.0, 0.0
        _, frame, scale = self._frame(size)
        unit = 10.0**-self.decimals / 2 * {"xywh": 2.0, "cxcywh": 1.5}.get(self.layout, 1.0)
        return float(unit * frame[0] / scale[0]), float(unit * frame[1] / scale[1])

    def has_place(self, numbers: Boxes, size: Size) -> Bool[np.ndarray, " boxes"]:
        """Which boxes say where they are: not those that were clipped onto an edge of the image, or round to it."""
        height, width = size
        corners = _corners(numbers, self.layout)
        edges = _corners(self.from_pixels(np.array([[0.0, 0.0, width, height]]), size), self.layout)[0]
        flat = np.isclose(corners[:, :2], corners[:, 2:], rtol=0, atol=1e-9)
        at_edge = np.isclose(corners[:, :2, None], edges.reshape(2, 2).T, rtol=0, atol=1e-9).any(axis=2)
        return np.asarray(~(flat & at_edge).any(axis=1))

    def _frame(self, size: Size) -> tuple[Quadruple, Quadruple, Quadruple]:
        """Where the image begins in the frame, the frame's sides, the number at its far edge: for x, y, x, y."""
        height, width = size
        side = max(height, width)
        left, top = ((side - width) / 2, (side - height) / 2) if self.frame == "centred" else (0.0, 0.0)
        across, down = (width, height) if self.frame == "image" else (side, side)
        match self.scale:
            case None:
                scale = across, down
            case (high, wide):
                scale = wide, high
            case number:
                scale = number, number
        return np.array((left, top) * 2), np.array((across, down) * 2, np.float64), np.array(scale * 2, np.float64)


CONVENTIONS: Mapping[str, Convention] = {
    "pixels": Convention(),
    "xywh pixels": Convention(layout="xywh"),  # COCO
    "cxcywh fractions": Convention(layout="cxcywh", scale=1.0),  # YOLO
    "fractions": Convention(scale=1.0),  # GLaMM's regions, ms-swift's norm1
    "three decimals": Convention(scale=1.0, decimals=3),  # Griffon, Shikra
    "padded fractions": Convention(scale=1.0, decimals=2, frame="centred"),  # LLaVA-1.5's conversations
    "thousandths": Convention(scale=1000.0, decimals=0),  # Qwen-VL, Qwen3-VL, InternVL, ms-swift's norm1000
    "yxyx thousandths": Convention(layout="yxyx", scale=1000.0, decimals=0),  # Gemini's box_2d
}
"""Conventions that users bring, by name."""


def convention(name: str, *, where: str | None = None) -> Convention:
    """A convention by its name.

    Raises:
        RecipeError: there is none; suggests a near one.
    """
    if name not in CONVENTIONS:
        raise RecipeError(
            f"there is no box convention {name!r}",
            where=where,
            known=CONVENTIONS,
            do=suggest(name, CONVENTIONS, "choose one of these"),
        )
    return CONVENTIONS[name]


def _arranged(corners: Boxes, layout: str) -> Boxes:
    """xyxy corners in the order of a layout."""
    left, top, right, bottom = corners.T
    columns = {
        "xyxy": (left, top, right, bottom),
        "yxyx": (top, left, bottom, right),
        "xywh": (left, top, right - left, bottom - top),
        "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
    }
    return np.stack(columns[layout], axis=1)


def _corners(numbers: Boxes, layout: str) -> Boxes:
    """The inverse of `_arranged`."""
    a, b, c, d = numbers.T
    columns = {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "xywh": (a, b, a + c, b + d),
        "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }
    return np.stack(columns[layout], axis=1)


def _rounded(numbers: Boxes, decimals: int) -> Boxes:
    """Rounded as Python prints: of the decimal number that a float really is, where NumPy rounds a scaled one."""
    return np.array([[round(value, decimals) + 0.0 for value in row] for row in numbers.tolist()]).reshape(-1, 4)
