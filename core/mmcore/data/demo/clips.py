"""Sample clips: the things of the sample scenes move and pass before one another, so that identities can be learned."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmcore.data.demo.art import SHAPES, Points, background, draw_sprite
from mmcore.data.demo.scenes import paste, rasterise
from mmcore.geometry import masks

MOST_PIXELS_A_FRAME = 14.0
"""Fastest that a thing moves along an axis."""


@dataclass(frozen=True)
class Followed:
    """One thing through a clip; None in frames in which nothing of it can be seen."""

    kind: str
    colour: str
    segmentations: tuple[masks.Rle | None, ...]
    boxes_xywh: tuple[list[float] | None, ...]


@dataclass(frozen=True)
class Clip:
    """Some frames and what moves through them."""

    number: int
    height: int
    width: int
    frames: tuple[bytes, ...]
    """JPEG files."""
    things: tuple[Followed, ...]

    def names(self) -> list[str]:
        """File names of the frames, below the folder of the clips."""
        return [f"{self.number:05d}/{frame:05d}.jpg" for frame in range(len(self.frames))]


@dataclass
class _Moving:
    sprite: Image.Image
    alpha: Image.Image
    outlines: list[Points]
    kind: str
    colour: str
    path: np.ndarray
    """(frames, 2) whole pixels."""


def draw_clip(seed: int, number: int, length: int) -> Clip:
    """The clip that `number` names in the world of `seed`; equal arguments give equal bytes."""
    rng = np.random.Generator(np.random.PCG64([seed, number, 2]))
    width, height = (int(side) for side in rng.integers(128, 161, 2))
    ground = background(rng, width, height)
    kinds = [str(kind) for kind in rng.permutation(list(SHAPES))[: int(rng.integers(2, 4))]]
    if rng.random() < 0.5:
        kinds[1] = kinds[0]  # twins are told apart by where they come from alone
    moving = [_moving(rng, kind, (width, height), length) for kind in kinds]
    frames, seen = [], []
    for frame in range(length):
        image = ground.copy()
        shapes = []
        for thing in moving:
            x, y = (int(value) for value in thing.path[frame])
            paste(image, thing.sprite, thing.alpha, x, y)
            shapes.append(rasterise([[(px + x, py + y) for px, py in line] for line in thing.outlines], height, width))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        frames.append(buffer.getvalue())
        seen.append([_visible(shapes, place) for place in range(len(shapes))])
    things = tuple(_followed(thing, [row[place] for row in seen]) for place, thing in enumerate(moving))
    return Clip(number, height, width, tuple(frames), things)


def as_ytvis(clips: Sequence[Clip], categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The clips as one file in the form of YouTube-VIS, named by these categories."""
    ids = {entry["name"]: entry["id"] for entry in categories}
    videos, annotations = [], []
    for clip in clips:
        sides = {"height": clip.height, "width": clip.width, "length": len(clip.frames)}
        videos.append({"id": clip.number, **sides, "file_names": clip.names()})
        for thing in clip.things:
            areas = [None if mask is None else masks.area(mask) for mask in thing.segmentations]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": clip.number,
                    "category_id": ids[thing.kind],
                    "iscrowd": 0,
                    **sides,
                    "bboxes": list(thing.boxes_xywh),
                    "segmentations": list(thing.segmentations),
                    "areas": areas,
                }
            )
    return {"videos": videos, "annotations": annotations, "categories": list(categories)}


def _moving(rng: np.random.Generator, kind: str, size: tuple[int, int], length: int) -> _Moving:
    """One thing on a straight way that turns back at the border."""
    sprite, alpha, outlines, colour = draw_sprite(rng, kind, rng.uniform(0.28, 0.42) * min(size))
    corners = np.concatenate([np.asarray(outline) for outline in outlines])
    low, high = 1 - corners.min(0), np.array(size) - 1 - corners.max(0)
    room = np.maximum(high - low, 1)
    start, speed = rng.uniform(0, 1, 2) * room, rng.uniform(-1, 1, 2) * MOST_PIXELS_A_FRAME
    way = np.abs((start + speed * np.arange(length)[:, None] + room) % (2 * room) - room)
    return _Moving(sprite, alpha, outlines, kind, colour, np.round(low + way).astype(int))


def _visible(shapes: Sequence[np.ndarray], place: int) -> np.ndarray:
    """What of a shape is not hidden by those drawn after it."""
    above = shapes[place + 1 :]
    return shapes[place] & ~np.logical_or.reduce(above) if above else shapes[place]


def _followed(thing: _Moving, seen: Sequence[np.ndarray]) -> Followed:
    found, boxes = [], []
    for mask in seen:
        ys, xs = np.nonzero(mask)
        found.append(masks.encode(mask) if len(xs) else None)
        box = [float(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)] if len(xs) else None
        boxes.append(box)
    return Followed(thing.kind, thing.colour, tuple(found), tuple(boxes))
