"""GLEE's image pipelines: numbers of the recipe in, a drawn list of steps out.

    multiscale  Lite and Plus: flip, sometimes resize and crop first, then the shorter edge to one of several lengths
    lsj         Pro: large-scale jitter to a fixed square, padded with grey

A drawing is a pure function of the generator's seed and the image size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from mmcore.contract.entry import check_entries
from mmcore.data.transforms import Crop, Flip, Pad, Resize, Size, Transform, shortest_edge
from mmcore.errors import RecipeError, suggest


class Pipeline(Protocol):
    """One family of augmentations."""

    boxes_from_masks: bool
    """Whether boxes are the tight boxes of the transformed masks, where there are masks."""
    squared: bool
    """Whether images are padded to a square."""

    @property
    def size_divisibility(self) -> int:
        """Sides of a batch are multiples of this many pixels."""
        ...

    def train(self, size: Size, rng: np.random.Generator, *, crop: bool = True) -> Transform:
        """Draw the steps for one training image; `crop=False` when its words depend on the whole image."""
        ...

    def train_clip(self, size: Size, frames: int, rng: np.random.Generator) -> list[Transform]:
        """Draw the steps for each frame of one training clip."""
        ...

    def test(self, size: Size) -> Transform:
        """The steps for one image at inference."""
        ...


@dataclass(frozen=True, kw_only=True)
class Multiscale:
    """`UnivideoimageDatasetMapper` of the published code: every number is a recipe entry."""

    min_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Lengths the shorter edge may get, pixels."""
    max_size: int = 1333
    """Limit of the longer edge, pixels."""
    crop_min_sizes: tuple[int, ...] = (400, 500, 600)
    """Lengths of the shorter edge before a crop, pixels."""
    crop_range: tuple[int, int] = (384, 600)
    """Smallest and largest side of a crop, pixels."""
    crop_probability: float = 0.5
    flip_probability: float = 0.5
    test_min_size: int = 800
    test_max_size: int = 1333
    size_divisibility: int = 32
    """Sides of a batch are padded to multiples of this many pixels."""

    boxes_from_masks = False
    squared = False

    def train(self, size: Size, rng: np.random.Generator, *, crop: bool = True) -> Transform:
        drawn = _flip(size, rng, self.flip_probability)
        if crop and rng.random() < self.crop_probability:
            drawn = drawn.then(shortest_edge(size, int(rng.choice(self.crop_min_sizes)), NO_LIMIT))
            drawn = drawn.then(self._crop(drawn.output_size, rng))
        return drawn.then(shortest_edge(drawn.output_size, int(rng.choice(self.min_sizes)), self.max_size))

    def train_clip(self, size: Size, frames: int, rng: np.random.Generator) -> list[Transform]:
        """As `YTVISDatasetMapper` of the published code: all frames are cropped or none, each for itself; one length of
        the shorter edge and one flip hold for the whole clip."""
        cropped = rng.random() < self.crop_probability
        side, flipped = int(rng.choice(self.min_sizes)), rng.random() < self.flip_probability
        drawn = []
        for _ in range(frames):
            transform = Transform(size, (self._crop(size, rng),) if cropped else ())
            transform = transform.then(shortest_edge(transform.output_size, side, self.max_size))
            drawn.append(transform.then(Flip()) if flipped else transform)
        return drawn

    def test(self, size: Size) -> Transform:
        return Transform(size, (shortest_edge(size, self.test_min_size, self.test_max_size),))

    def _crop(self, size: Size, rng: np.random.Generator) -> Crop:
        low, high = self.crop_range
        height, width = (int(rng.integers(min(side, low), min(side, high) + 1)) for side in size)
        y0, x0 = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        return Crop(x0, y0, width, height)


@dataclass(frozen=True, kw_only=True)
class LargeScaleJitter:
    """`Joint_Image_Video_LSJDatasetMapper` of the published code (Ghiasi et al. 2021, "simple copy-paste")."""

    image_size: int = 1536
    """Side of the square, pixels."""
    min_scale: float = 0.1
    max_scale: float = 2.0
    flip_probability: float = 0.5
    pad_value: int = 128
    """Grey of the padding."""
    size_divisibility: int = 32
    """Sides of a batch are padded to multiples of this many pixels."""

    boxes_from_masks = True
    squared = True

    def train(self, size: Size, rng: np.random.Generator, *, crop: bool = True) -> Transform:
        drawn = _flip(size, rng, self.flip_probability)
        # Up to scale 1 the image fits into the square, so nothing is cut off.
        scale = rng.uniform(self.min_scale, self.max_scale if crop else min(self.max_scale, 1.0))
        factor = min(self.image_size * scale / side for side in size)
        height, width = (max(1, round(side * factor)) for side in size)
        return self._squared(drawn.then(Resize(height, width)), rng.random())

    def train_clip(self, size: Size, frames: int, rng: np.random.Generator) -> list[Transform]:
        """As published, every frame is drawn for itself, the flip too."""
        return [self.train(size, rng) for _ in range(frames)]

    def test(self, size: Size) -> Transform:
        resized = Transform(size, (shortest_edge(size, self.image_size, self.image_size),))
        return self._squared(resized, 0.0)

    def _squared(self, drawn: Transform, share: float) -> Transform:
        """Cut to the square at `share` of the excess on both axes, then pad to it."""
        y0, x0 = (round(max(side - self.image_size, 0) * share) for side in drawn.output_size)
        return drawn.then(
            Crop(x0, y0, self.image_size, self.image_size), Pad(self.image_size, self.image_size, self.pad_value)
        )


PIPELINES = {"multiscale": Multiscale, "lsj": LargeScaleJitter}

NO_LIMIT = 1 << 31
"""Longest edge that no image reaches."""


def pipeline(numbers: Mapping[str, Any]) -> Pipeline:
    """The pipeline that a recipe's `data.transform` describes.

    Args:
        numbers: `pipeline` names it, the other entries are its fields; missing ones keep the published value.

    Raises:
        RecipeError: the pipeline or an entry does not exist, or a number makes no sense.
    """
    values = dict(numbers)
    name = values.pop("pipeline", "multiscale")
    if not isinstance(name, str) or name not in PIPELINES:
        raise RecipeError(
            f"no image pipeline named {name!r}",
            where="data.transform.pipeline",
            known=PIPELINES,
            do=suggest(str(name), PIPELINES, "choose one of these"),
        )
    kind = PIPELINES[name]
    check_entries(kind, values, f"the {name} pipeline has no number", "data.transform", typed=False)
    return kind(**{key: _checked(key, value, getattr(kind, key)) for key, value in values.items()})


def padding(steps: Pipeline) -> dict[str, Any]:
    """How a collator pads what a pipeline makes, as its arguments."""
    return {"squared": steps.squared, "multiple": steps.size_divisibility}


def _checked(key: str, value: Any, published: Any) -> Any:
    """A recipe value in the shape of the published one: a positive number, a probability, or several sizes."""
    where = f"data.transform.{key}"
    if isinstance(published, tuple):
        sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not sizes or not all(type(size) is int and size > 0 for size in sizes):
            raise RecipeError(f"{key} takes positive whole numbers, not {value!r}", where=where)
        if key == "crop_range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
            raise RecipeError(f"crop_range takes a smallest and a largest side, not {value!r}", where=where)
        return sizes
    if type(value) not in ((int,) if isinstance(published, int) else (int, float)) or value < 0:
        raise RecipeError(f"{key} takes a number like {published}, not {value!r}", where=where)
    if key.endswith("_probability") and value > 1:
        raise RecipeError(f"{key} is {value}, more than 1", where=where)
    if key.endswith(("_size", "_divisibility")) and value < 1:
        raise RecipeError(f"{key} is {value}; it takes at least 1 pixel", where=where)
    return value


def _flip(size: Size, rng: np.random.Generator, probability: float) -> Transform:
    return Transform(size, (Flip(),) if rng.random() < probability else ())
