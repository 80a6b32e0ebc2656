"""One sample picture: a few coloured shapes on a muted ground, and everything that can be asked about them.

Kinds and colours differ within a picture, so "the circle" and "the red shape" each mean one thing.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mmcore.data.demo.art import background
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 32, 38),
    "green": (24, 150, 62),
    "blue": (36, 76, 214),
    "yellow": (248, 214, 28),
    "purple": (142, 46, 182),
    "black": (22, 22, 26),
}
KINDS = ("circle", "ring", "cross", "bar")
NUMBERS = ("zero", "one", "two", "three")
SIDE_MARGIN = 0.08
"""A shape counts as left or right when its centre is this share of the width off the middle."""


class Question(NamedTuple):
    """One question about a picture and its one right answer."""

    kind: str
    """color, shape, count, presence or side."""
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape; centre in fractions of the picture's width and height."""

    kind: str
    colour: str
    x: float
    y: float

    @property
    def side(self) -> str | None:
        """left or right, None near the middle."""
        if abs(self.x - 0.5) < SIDE_MARGIN:
            return None
        return "left" if self.x < 0.5 else "right"


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and what is on it."""

    name: str
    jpeg: bytes
    shapes: tuple[Shape, ...]


def draw_scene(seed: int, number: int) -> Scene:
    """Picture `number` in the world of `seed`; equal arguments give equal bytes."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    width, height = (int(side) for side in rng.integers(112, 129, 2))
    image = background(rng, width, height)
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))[:count]]
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:count]]
    shapes = []
    for kind, colour, (x, y, radius) in zip(kinds, colours, _places(rng, count)):
        _draw(image, kind, COLOURS[colour], (x * width, y * height), radius * min(width, height), rng)
        shapes.append(Shape(kind, colour, x, y))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return Scene(f"{number:06d}.jpg", buffer.getvalue(), tuple(shapes))


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Centre and radius of each shape, fractions, no two touching: rejection until all fit."""
    low, high = ((0.26, 0.38), (0.2, 0.27), (0.17, 0.21))[count - 1]
    while True:
        found = [
            (float(rng.uniform(r + 0.04, 0.96 - r)), float(rng.uniform(r + 0.04, 0.96 - r)), r)
            for r in (float(rng.uniform(low, high)) for _ in range(count))
        ]
        apart = (math.dist(a[:2], b[:2]) > 1.1 * (a[2] + b[2]) for i, a in enumerate(found) for b in found[i + 1 :])
        if all(apart):
            return found


def _draw(
    image: Image.Image,
    kind: str,
    colour: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Paint one shape, slightly turned and lit; edges are smoothed by drawing it four times as large."""
    scale, turn = 4, float(rng.uniform(-0.12, 0.12))
    cover = Image.new("L", (image.width * scale, image.height * scale))
    for outline, fill in zip(_OUTLINES[kind], (255, 0)):  # the second outline is a hole
        points = [
            (
                scale * (centre[0] + radius * (px * math.cos(turn) - py * math.sin(turn))),
                scale * (centre[1] + radius * (px * math.sin(turn) + py * math.cos(turn))),
            )
            for px, py in outline
        ]
        ImageDraw.Draw(cover).polygon(points, fill=fill)
    light = rng.uniform(0.9, 1.1)
    paint = tuple(min(255, round(channel * light)) for channel in colour)
    image.paste(Image.new("RGB", image.size, paint), mask=cover.reduce(scale))


def _arc(count: int, radius: float = 1.0) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


_ARM = 0.2
_OUTLINES: dict[str, list[list[tuple[float, float]]]] = {
    "circle": [_arc(40)],
    "ring": [_arc(40), _arc(40, 0.72)],
    "cross": [[
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ]],
    "bar": [[(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)]],
}  # fmt: skip


# ---- what is said about a scene ----


def caption(scene: Scene) -> str:
    """A sentence that names every shape, from left to right, and says on which side it lies."""
    named = [
        f"a {shape.colour} {shape.kind}" + (f" on the {shape.side}" if shape.side else "")
        for shape in sorted(scene.shapes, key=lambda shape: shape.x)
    ]
    return {1: "{0}", 2: "{0} and {1}", 3: "{0}, {1} and {2}"}[len(named)].format(*named)


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question about the whole picture, then one about each shape in any order.

    No answer follows from the questions and answers before it, so that all of them have to be read off the picture.
    """
    shapes = scene.shapes
    known, new = shapes[int(rng.integers(len(shapes)))], _absent_colour(shapes, rng)
    whole = (
        Question("count", "How many shapes are there?", NUMBERS[len(shapes)]),
        Question("presence", f"Is there a {known.colour} shape?", "yes"),
        Question("presence", f"Is there a {new} shape?", "no"),
    )[int(rng.integers(3))]
    told = known.colour if whole.answer == "yes" else None
    each = [[asked for asked in _about(shapes[i]) if asked.answer != told] for i in rng.permutation(len(shapes))]
    return [whole, *(asked[int(rng.integers(len(asked)))] for asked in each)]


def _about(shape: Shape) -> Iterator[Question]:
    yield Question("color", f"What color is the {shape.kind}?", shape.colour)
    yield Question("shape", f"Which shape is {shape.colour}?", shape.kind)
    if shape.side:
        yield Question("side", f"Is the {shape.colour} shape on the left or on the right?", shape.side)


def _absent_colour(shapes: Sequence[Shape], rng: np.random.Generator) -> str:
    absent = [colour for colour in COLOURS if all(shape.colour != colour for shape in shapes)]
    return absent[int(rng.integers(len(absent)))]
