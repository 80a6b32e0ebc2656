"""One sample picture: two or three coloured shapes on a muted ground, their masks, and a caption that names them.

Kinds and colours differ within a picture, so "the circle" and "the red shape" each mean one thing.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmcore.data.demo.art import background
from mmcore.geometry import masks

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 32, 38),
    "green": (24, 150, 62),
    "blue": (36, 76, 214),
    "yellow": (248, 214, 28),
    "purple": (142, 46, 182),
    "black": (22, 22, 26),
}
KINDS = ("circle", "square", "triangle", "ring")
JOINTS = {2: ("{0} lies {side} of {1}.", "{0} and {1}."), 3: ("{0}, {1} and {2}.", "{0} beside {1} and {2}.")}
"""Sentences by the number of shapes, which are named in any order: a mask can be told only by its phrase."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape."""

    kind: str
    colour: str
    mask: np.ndarray
    """(height, width) bool."""

    @property
    def phrase(self) -> str:
        """What it is called in a caption."""
        return f"a {self.colour} {self.kind}"

    @property
    def box_xywh(self) -> list[float]:
        """Around the mask, pixels."""
        left, top, right, bottom = masks.tight_box(self.mask) or (0, 0, 0, 0)
        return [float(left), float(top), float(right - left), float(bottom - top)]


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with its shapes from left to right."""

    number: int
    size: tuple[int, int]
    """Height and width, pixels."""
    jpeg: bytes
    shapes: tuple[Shape, ...]
    caption: str
    spans: tuple[tuple[int, int], ...]
    """Of each shape's phrase in the caption."""

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.number:06d}.jpg"

    def expressions(self) -> list[tuple[int, list[str]]]:
        """For each shape what means it and no other."""
        return [(place, [f"{one.colour} {one.kind}", one.kind]) for place, one in enumerate(self.shapes)]


def draw_scene(seed: int, number: int) -> Scene:
    """The scene `number` of the world of `seed`; equal arguments give equal bytes."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    width, height = (int(side) for side in rng.integers(112, 145, 2))
    count = int(rng.choice([2, 3], p=[0.6, 0.4]))
    kinds, colours = rng.permutation(KINDS)[:count], rng.permutation(list(COLOURS))[:count]
    pixels = np.asarray(background(rng, width, height)).copy()
    shapes = []
    for place, (kind, colour) in enumerate(zip(kinds, colours)):
        cell = width / count
        radius = rng.uniform(0.36, 0.46) * min(cell, height / 1.6)
        x = (place + 0.5) * cell + rng.uniform(-1, 1) * max(0.0, cell / 2 - radius)
        y = rng.uniform(radius + 1, height - radius - 1)
        mask = _inside(str(kind), x, y, radius, height, width)
        pixels[mask] = (np.array(COLOURS[str(colour)]) + rng.integers(-12, 13, 3)).clip(0, 255)
        shapes.append(Shape(str(kind), str(colour), mask))
    order = [int(place) for place in rng.permutation(count)]
    caption, spans = _caption(shapes, order, rng)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return Scene(number, (height, width), buffer.getvalue(), tuple(shapes), caption, spans)


def _inside(kind: str, x: float, y: float, radius: float, height: int, width: int) -> np.ndarray:
    """(height, width) bool: pixels of a shape around (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    dx, dy = (columns + 0.5 - x) / radius, (rows + 0.5 - y) / radius
    distance = np.hypot(dx, dy)
    if kind == "circle":
        return distance < 1
    if kind == "ring":
        return (distance < 1) & (distance > 0.5)
    if kind == "square":
        return np.maximum(abs(dx), abs(dy)) < 0.88
    return (dy < 0.9) & (dy > -1 + 2.1 * abs(dx))


def _caption(
    shapes: list[Shape], order: list[int], rng: np.random.Generator
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A sentence that names the shapes in some order, and where it names each of them, from left to right."""
    wordings = JOINTS[len(shapes)]
    side = "left" if order[0] < order[1] else "right"
    wording = wordings[int(rng.integers(len(wordings)))].replace("{side}", side)
    text, spans = "", {}
    for piece in wording.replace("}", "{").split("{"):
        phrase = None
        if piece.isdigit():
            phrase = shapes[order[int(piece)]].phrase
            spans[order[int(piece)]] = (len(text), len(text) + len(phrase))
        text += phrase or piece
    return text, tuple(spans[place] for place in range(len(shapes)))
