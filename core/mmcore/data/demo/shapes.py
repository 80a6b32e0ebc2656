"""One sample picture: a few coloured shapes on a muted ground, with their boxes.

Kinds and colours differ within a picture, so "the circle" and "red circle" each mean one thing; in a picture of twins
all shapes are of one kind, for questions with a visual prompt.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmcore.data.demo.art import background

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 32, 38),
    "green": (24, 150, 62),
    "blue": (36, 76, 214),
    "yellow": (248, 214, 28),
    "purple": (142, 46, 182),
}
KINDS = ("circle", "square", "triangle", "cross")
GRID = 10
"""Corners lie on so many lines across and down, so that of every number one digit has to be learnt."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape."""

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    """xyxy, pixels, two decimals."""


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """One picture and what is on it."""

    name: str
    height: int
    width: int
    jpeg: bytes
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        """Every shape, from left to right."""
        named = [f"a {shape.colour} {shape.kind}" for shape in sorted(self.shapes, key=lambda shape: shape.box)]
        return " and ".join(named)


def coco_boxes(scenes: Sequence[DrawnScene]) -> dict[str, Any]:
    """Pictures as a COCO file of boxes, without masks; a kind of shape is a category."""
    images, annotations = [], []
    for number, scene in enumerate(scenes, 1):
        images.append({"id": number, "file_name": scene.name, "height": scene.height, "width": scene.width})
        for shape in scene.shapes:
            x0, y0, x1, y1 = shape.box
            box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": KINDS.index(shape.kind) + 1}
            annotations.append({**one, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": kind} for number, kind in enumerate(KINDS, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_scene(seed: int, number: int, *, twins: bool = False) -> DrawnScene:
    """Picture `number` in the world of `seed`; equal arguments give equal bytes."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    width, height = (GRID * int(side) for side in rng.integers(12, 15, 2))
    image = background(rng, width, height)
    count = int(rng.choice([2, 3, 4])) if twins else int(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05]))
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))[:count]]
    kinds = kinds[:1] * count if twins else kinds
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:count]]
    shapes = []
    for kind, colour, (x, y, radius) in zip(kinds, colours, _places(rng, count)):
        centre, reach = (x * width, y * height), (radius * width, radius * height)
        _draw(image, kind, COLOURS[colour], centre, reach)
        box = (centre[0] - reach[0], centre[1] - reach[1], centre[0] + reach[0], centre[1] + reach[1])
        shapes.append(Shape(kind, colour, tuple(round(side, 2) for side in box)))  # type: ignore[arg-type]
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return DrawnScene(f"{number:06d}.jpg", height, width, buffer.getvalue(), tuple(shapes))


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Centre and reach of each shape, fractions, no two touching: rejection until all fit."""
    low, high = ((3, 6), (3, 5), (3, 4), (3, 4))[count - 1]
    while True:
        sides = rng.integers(low, high, count)
        corners = np.array([[int(rng.integers(0, GRID + 1 - side)) for _ in "xy"] for side in sides])
        apart = (
            np.abs(2 * (corners[i] - corners[k]) + sides[i] - sides[k]).max() >= sides[i] + sides[k]
            for i in range(count)
            for k in range(i)
        )
        if all(apart):
            centres = (corners + sides[:, None] / 2) / GRID
            return [(x, y, side / 2 / GRID) for (x, y), side in zip(centres.tolist(), sides.tolist())]


def _draw(
    image: Image.Image,
    kind: str,
    colour: tuple[int, int, int],
    centre: tuple[float, float],
    reach: tuple[float, float],
) -> None:
    """Paint one shape that fills its box; edges are smoothed by drawing it four times as large."""
    scale = 4
    cover = Image.new("L", (image.width * scale, image.height * scale))
    points = [(scale * (centre[0] + reach[0] * x), scale * (centre[1] + reach[1] * y)) for x, y in _OUTLINES[kind]]
    ImageDraw.Draw(cover).polygon(points, fill=255)
    image.paste(Image.new("RGB", image.size, colour), mask=cover.reduce(scale))


_ARM = 0.35
_OUTLINES: dict[str, Sequence[tuple[float, float]]] = {
    "circle": [(math.cos(2 * math.pi * i / 40), math.sin(2 * math.pi * i / 40)) for i in range(40)],
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip
