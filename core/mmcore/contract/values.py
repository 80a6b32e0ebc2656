"""What passes between data, model, engine and evaluation: frozen values with shapes and units.

A parser yields records, a transform makes a `Sample` of a record, a collator makes a `Batch` of samples,
a model makes `Losses` or `Prediction`s of a batch. The engine knows only `Batch` and `Losses`; evaluation,
drawing and JSON output know only `Prediction`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from mmcore.language.sequence import Encoded, Turn


class Draw(NamedTuple):
    """Which record stands at one position of the training order, and the seed of its augmentation."""

    source: str
    """Name of the data source."""
    position: int
    """Record number inside the source, from 0."""
    seed: int
    """64-bit seed of everything random that happens to this sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One transformed image with its annotations, as it enters a collator.

    Boxes are in pixels of the transformed image. `masks` is None when the source has none (boxes only).
    """

    image: UInt8[Tensor, "3 height width"]
    boxes_xyxy: Float[Tensor, "objects 4"]
    labels: Int[Tensor, " objects"]
    masks: Bool[Tensor, "objects height width"] | None
    draw: Draw
    image_id: int | str
    original_size: tuple[int, int]
    """Height and width of the image before any transform, pixels."""
    expression: str | None = None
    """Referring expression, for grounding sources."""
    phrases: tuple[str, ...] | None = None
    """One phrase per object, for sources whose labels are free text."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConversationSample:
    """One tokenised conversation with its images, as it enters a collator of a language-model family."""

    encoded: "Encoded"
    turns: "tuple[Turn, ...]"
    """What was said, for pictures and evaluation; image markers included."""
    images: tuple[Tensor, ...]
    """Preprocessed images in the order of their placeholders; empty for text."""
    draw: Draw
    image_id: int | str
    original_size: tuple[int, int]
    """Height and width of the first image on disk, pixels; (0, 0) without one."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What one family adds: targets, masks, boxes, the image path."""


@dataclass(slots=True)
class Batch:
    """What every family's batch tells the engine; families add their tensors in a subclass.

    `counts` holds how many tokens, objects, masks, samples... this batch contributes to each normaliser that the
    model's losses name; plain Python numbers, so that the engine can sum them without touching the device.
    """

    source: str
    draws: tuple[Draw, ...]
    counts: dict[str, float]

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Self:
        """The same batch with every tensor, also inside tuples, lists and dicts, on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; called by the data loader."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> Self:
        values = {f.name: map_tensors(getattr(self, f.name), function) for f in dataclasses.fields(self)}
        return type(self)(**values)

    def __len__(self) -> int:
        return len(self.draws)


def map_tensors(value: Any, function: Any) -> Any:
    """`value` with `function` applied to every tensor inside tuples, lists, dicts and values that offer the same."""
    if isinstance(value, Tensor):
        return function(value)
    if hasattr(value, "map_tensors"):
        return value.map_tensors(function)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map_tensors(v, function) for v in value)
    if isinstance(value, list):
        return [map_tensors(v, function) for v in value]
    if isinstance(value, dict):
        return {k: map_tensors(v, function) for k, v in value.items()}
    return value


@dataclass(slots=True)
class DetectionBatch(Batch):
    """Images padded to one size on the right and bottom, and their objects laid end to end.

    Object tensors are flat over the batch: image i owns the next `num_objects[i]` rows. So nothing is padded to
    the largest image and no loop over images is needed to read them.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    """Zero padded; what lies outside `image_sizes` is not image."""
    image_sizes: tuple[tuple[int, int], ...]
    """Height and width of each image before padding, pixels."""
    original_sizes: tuple[tuple[int, int], ...]
    """Height and width of each image on disk, pixels."""
    image_ids: tuple[int | str, ...]
    num_objects: tuple[int, ...]
    labels: Int[Tensor, " objects"]
    boxes_cxcywh: Float[Tensor, "objects 4"]
    """Fractions of the padded width and height, in [0, 1]."""
    masks: UInt8[Tensor, "objects height width"] | None
    """0 or 1 at padded size; None when the source has no masks."""


class Loss(NamedTuple):
    """One named loss of a micro-batch, already multiplied by its weight."""

    total: Float[Tensor, ""]
    """Sum over everything the normaliser counts, not a mean."""
    per: str
    """The entry of `Batch.counts` this sum is divided by, after that count was summed over the global batch."""


class Losses(dict[str, Loss]):
    """Named losses of one micro-batch, in the order in which they are reported."""


class Span(NamedTuple):
    """A piece of the predicted text that points at objects of the same prediction."""

    start: int
    """First character."""
    end: int
    """One past the last character."""
    objects: tuple[int, ...]
    """Rows of `Prediction.boxes_xyxy` and `Prediction.masks`."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one image, the same type for every family; tensors on the CPU.

    Boxes are pixels of the original image. A family fills what it has: a detector has no text, a captioner may
    have no boxes.
    """

    image_id: int | str
    size: tuple[int, int]
    """Height and width of the original image, pixels."""
    boxes_xyxy: Float[Tensor, "objects 4"] | None = None
    scores: Float[Tensor, " objects"] | None = None
    labels: Int[Tensor, " objects"] | None = None
    """Indices into the vocabulary that was asked for."""
    names: tuple[str, ...] | None = None
    """The word or phrase of each object."""
    masks: Sequence[Mapping[str, Any]] | None = None
    """COCO compressed RLE of each object at `size`: {"size": [height, width], "counts": str}."""
    text: str | None = None
    spans: tuple[Span, ...] = ()
