"""What samples and predictions are made of: turns, phrases and regions, what a person pointed at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Id = int | str
"""Of an image or a record, as its file gives it."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
IGNORED = 255
"""In a label map: a pixel that belongs to no class and is not judged."""

# ---- images by role ----

MAIN, SEGMENT, CROP, FRAME = "main", "segment", "crop", "frame"
"""Usual roles of an image: what the language model or detector sees; the same picture for a mask decoder with its own
encoder (SAM); a part of it that stands for a region; one of a clip. A family may name others, such as the input of a
frozen teacher."""
Images = Mapping[str, tuple[Tensor, ...]]
"""Role -> preprocessed images in the order in which the text mentions them, (3, height, width) each."""


class Draw(NamedTuple):
    """Which record stands at one position of the training order, and the seed of its augmentation."""

    source: str
    """Name of the data source."""
    position: int
    """Record number inside the source, from 0."""
    seed: int
    """64-bit seed of everything random that happens to this sample."""


# ---- text ----


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`user` or `assistant`."""
    text: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised conversation, placeholders not yet expanded."""

    ids: Int64[np.ndarray, " tokens"]
    """Vocabulary ids, and negative placeholder ids (`mmcore.language.sequence`)."""
    labels: Int64[np.ndarray, " tokens"]
    """The ids to learn, -100 elsewhere; not shifted."""
    cut: int = 0
    """Tokens that did not fit the maximum length."""
    problem: str | None = None
    """Why nothing of this sample is learned, when the published masking rule gives up on it."""


class Phrase(NamedTuple):
    """A piece of text that means objects of its sample or prediction: a grounded phrase, a `[SEG]` and its mask."""

    turn: int
    """Number of the turn from 0; 0 where there is one text."""
    start: int
    """First character within the turn."""
    end: int
    """One past the last character."""
    objects: tuple[int, ...]
    """Numbers of the regions of a conversation, or of the objects of a prediction; several for "the two dogs"."""


# ---- places in an image ----


@dataclass(frozen=True, slots=True)
class Region:
    """A place in an image and what is said about it; a family fills what its record has."""

    box_xyxy: Box | None = None
    """Pixels of the original image."""
    mask: UInt8[Tensor, "height width"] | None = None
    """At the size of the original image, 0 outside; a number over 1 where polygons of one object overlap."""
    text: str | None = None
    """A caption, phrase or class name."""
    track_id: int | None = None
    """The same for one thing throughout a video."""


PromptKind = Literal["point", "box", "scribble", "mask"]
"""How a person shows what is meant: points on it, a box around it, a line drawn over it, its mask."""


@dataclass(frozen=True, slots=True)
class VisualPrompt:
    """What a person pointed at instead of naming it, in pixels of the image it belongs to."""

    kind: PromptKind
    points_xy: Float[Tensor, "points 2"] | None = None
    """Points; the two corners of a box; the line of a scribble. None for a mask."""
    mask: UInt8[Tensor, "height width"] | None = None
    """0 or 1; of a mask, and where a collator has filled in the others."""
    region: int | None = None
    """Number of the object or region that is meant, where it is known."""

    def __post_init__(self) -> None:
        given = self.mask if self.kind == "mask" else self.points_xy
        if given is None:
            raise ValueError(f"a prompt of kind {self.kind!r} needs its {'mask' if self.kind == 'mask' else 'points'}")
        if self.kind == "box" and len(given) != 2:
            raise ValueError(f"a box prompt has two corners, not {len(given)} points")
