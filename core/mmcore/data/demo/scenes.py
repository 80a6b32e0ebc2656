"""One sample scene: what is placed where, what of it can be seen, and expressions that single objects out."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mmcore.data.demo.art import SHAPES, Points, background, draw_sprite
from mmcore.geometry import masks


@dataclass(frozen=True)
class Thing:
    """One drawn object, as much of it as can be seen."""

    annotation_id: int
    kind: str
    colour: str
    segmentation: Any
    """Polygons while the object is whole; RLE when another hides a part of it, and for crowds."""
    area: float
    box_xywh: list[float]
    crowd: bool

    @property
    def centre(self) -> tuple[float, float]:
        x, y, w, h = self.box_xywh
        return x + w / 2, y + h / 2


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it."""

    image_id: int
    height: int
    width: int
    jpeg: bytes
    things: tuple[Thing, ...]
    expressions: tuple[tuple[int, tuple[str, ...]], ...]
    """Number of the thing, and expressions that fit it and nothing else in the scene."""

    @property
    def name_2014(self) -> str:
        return f"COCO_train2014_{self.image_id:012d}.jpg"


@dataclass
class _Placed:
    kind: str
    colour: str
    outlines: list[Points]
    mask: np.ndarray
    crowd: bool = False


def draw_scene(seed: int, image_id: int) -> Scene:
    """The scene that `image_id` names in the world of `seed`; equal arguments give equal bytes."""
    rng = np.random.Generator(np.random.PCG64([seed, image_id]))
    width, height = (int(side) for side in rng.integers(128, 161, 2))
    image = background(rng, width, height)
    placed: list[_Placed] = []
    if rng.random() < 0.04:
        _place_crowd(image, placed, rng)
    count = int(rng.choice([1, 2, 3, 4], p=[0.22, 0.38, 0.28, 0.12]))
    kinds: list[str] = [str(kind) for kind in rng.permutation(list(SHAPES))[:count]]
    if count > 1 and rng.random() < 0.4:
        kinds[1] = kinds[0]  # twins make "the left one" mean something
    for kind in kinds:
        largest = {1: 0.68, 2: 0.56, 3: 0.46, 4: 0.4}[count]
        _place(image, placed, rng, kind, largest)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    things = _visible(placed, image_id)
    return Scene(image_id, height, width, buffer.getvalue(), things, _expressions(things, rng))


def _place(image: Image.Image, placed: list[_Placed], rng: np.random.Generator, kind: str, largest: float) -> None:
    """Draw one object where it hides little of the others, or nothing when there is no room."""
    width, height = image.size
    for attempt in range(12):
        side = rng.uniform(0.3, max(0.32, largest - 0.01 * attempt)) * min(width, height)
        sprite, alpha, outlines, colour = draw_sprite(rng, kind, side)
        corners = np.concatenate([np.asarray(outline) for outline in outlines])
        low, high = corners.min(0), corners.max(0)
        x = rng.uniform(1 - low[0], width - 1 - high[0])
        y = rng.uniform(1 - low[1], height - 1 - high[1])
        # Sprites are pasted at whole pixels; the outline follows.
        x, y = round(x), round(y)
        # Rounded as the file will have them, so that the stored area is that of the stored polygons.
        moved = [[(round(px + x, 2), round(py + y, 2)) for px, py in outline] for outline in outlines]
        mask = rasterise(moved, height, width)
        if all((mask & other.mask).sum() <= 0.15 * min(mask.sum(), other.mask.sum()) for other in placed):
            paste(image, sprite, alpha, x, y)
            placed.append(_Placed(kind, colour, moved, mask))
            return


def _place_crowd(image: Image.Image, placed: list[_Placed], rng: np.random.Generator) -> None:
    """A heap of small objects that is annotated as one crowd region."""
    width, height = image.size
    kind = str(rng.choice(["banana", "sports ball"]))
    left, top = rng.uniform(0.1, 0.5, 2) * (width, height)
    union = np.zeros((height, width), bool)
    for _ in range(7):
        sprite, alpha, outlines, _ = draw_sprite(rng, kind, 22.0)
        x = round(float(np.clip(left + rng.uniform(0, 40), 12, width - 12)))
        y = round(float(np.clip(top + rng.uniform(0, 24), 12, height - 12)))
        paste(image, sprite, alpha, x, y)
        union |= rasterise([[(px + x, py + y) for px, py in outline] for outline in outlines], height, width)
    placed.append(_Placed(kind, "", [], union, crowd=True))


def paste(image: Image.Image, sprite: Image.Image, alpha: Image.Image, x: int, y: int) -> None:
    """Lay a sprite over the image with a soft shadow below and to the right; (x, y) is its centre."""
    half = sprite.width // 2
    shadow = alpha.filter(ImageFilter.GaussianBlur(2)).point(lambda value: value * 0.35)
    image.paste((25, 25, 35), (x - half + 2, y - half + 3), shadow)
    image.paste(sprite, (x - half, y - half), alpha)


def _visible(placed: Sequence[_Placed], image_id: int) -> tuple[Thing, ...]:
    """Annotations of what can be seen: things drawn later hide parts of those drawn earlier."""
    things = []
    for number, one in enumerate(placed):
        above = [other.mask for other in placed[number + 1 :]]
        mask = one.mask & ~np.logical_or.reduce(above) if above else one.mask
        whole = not one.crowd and mask.sum() == one.mask.sum()
        if whole:
            segmentation: Any = [[c for point in outline for c in point] for outline in one.outlines]
            corners = np.concatenate([np.asarray(outline) for outline in one.outlines])
            (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
        else:
            segmentation = _crowd_rle(mask) if one.crowd else masks.encode(mask)
            ys, xs = np.nonzero(mask)
            x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        box = [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)]
        annotation_id = image_id * 10 + number
        things.append(Thing(annotation_id, one.kind, one.colour, segmentation, float(mask.sum()), box, one.crowd))
    return tuple(things)


def rasterise(outlines: list[Points], height: int, width: int) -> np.ndarray:
    """Outlines as a (height, width) bool mask."""
    flat = [[c for point in outline for c in point] for outline in outlines]
    return masks.polygons_to_bitmap(flat, height, width).astype(bool)


def _crowd_rle(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed column-major run lengths, zeros first, as COCO stores crowds."""
    flat = np.concatenate([[0], mask.flatten(order="F").astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    left_over = mask.size - sum(counts)
    return {"size": list(mask.shape), "counts": counts + ([left_over] if left_over else [])}


_NOUNS = {"sports ball": ("ball", "round ball"), "traffic light": ("traffic light", "signal")}


def _expressions(things: Sequence[Thing], rng: np.random.Generator) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Up to two referred objects with up to three expressions each."""
    candidates = []
    for number, thing in enumerate(things):
        fitting = [] if thing.crowd else list(_fitting(thing, [t for t in things if t is not thing]))
        if fitting:
            chosen = [fitting[i] for i in sorted(rng.permutation(len(fitting))[:3])]
            candidates.append((number, tuple(chosen)))
    return tuple(candidates[i] for i in sorted(rng.permutation(len(candidates))[:2]))


def _fitting(thing: Thing, others: Sequence[Thing]) -> Iterator[str]:
    """Expressions that fit this thing and none of the others."""
    noun, *more = _NOUNS.get(thing.kind, (thing.kind,))
    same = [other for other in others if other.kind == thing.kind]
    if any(other.crowd for other in same):
        return
    if not same:
        yield f"the {noun}"
        for other_name in more:
            yield f"the {other_name}"
    if thing.kind in ("kite", "sports ball") and all(other.colour != thing.colour for other in same):
        yield f"{thing.colour} {noun}"
    for axis, low, high in ((0, "left", "right"), (1, "top", "bottom")):
        here = thing.centre[axis]
        if same and all(here + 12 < other.centre[axis] for other in same):
            yield f"{low} {noun}"
            yield f"the {noun} on the {low}"
        if same and all(here - 12 > other.centre[axis] for other in same):
            yield f"{high} {noun}"
            yield f"the {noun} on the {high}"
    if same and all(thing.area > 1.4 * other.area for other in same):
        yield f"the bigger {noun}"
    neighbours = [other for other in others if not other.crowd and other.kind != thing.kind]
    for other in neighbours[:1]:
        word = _NOUNS.get(other.kind, (other.kind,))[0]
        if not same and thing.centre[0] + 20 < other.centre[0]:
            yield f"{noun} to the left of the {word}"
        if not same and thing.centre[0] - 20 > other.centre[0]:
            yield f"{noun} to the right of the {word}"
