"""What a model says about one image: one type for detectors, segmenters, captioners and trackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mmcore.contract.values.parts import Id, Phrase, Region


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one image or one frame of a video; tensors on the CPU.

    Boxes are pixels of the original image. A family fills what it has: a detector has no text, a captioner may
    have no boxes. What has one row an object (`boxes_xyxy`, `scores`, `labels`, `names`, `masks`, `track_ids`) agrees
    in length.
    """

    image_id: Id | None
    """None for an answer to text alone."""
    size: tuple[int, int]
    """Height and width of the original image, pixels; (0, 0) without one."""
    boxes_xyxy: Float[Tensor, "objects 4"] | None = None
    scores: Float[Tensor, " objects"] | None = None
    """How sure the model is of each object; what it measured otherwise is in `measures`."""
    labels: Int[Tensor, " objects"] | None = None
    """Indices into the vocabulary that was asked for."""
    names: tuple[str, ...] | None = None
    """The word or phrase of each object."""
    masks: Sequence[Mapping[str, Any]] | None = None
    """COCO compressed RLE of each object at `size`: {"size": [height, width], "counts": str}."""
    text: str | None = None
    """What the model wrote; the coordinates in it as it wrote them."""
    record_id: Id | None = None
    """Of the question or expression, where an image has several."""
    track_ids: Int[Tensor, " objects"] | None = None
    """The same number for one thing in all frames of a video."""
    frame: int | None = None
    """Number of the frame within its video, from 0; `image_id` is then the video's."""
    phrases: tuple[Phrase, ...] = ()
    """Which pieces of `text` mean which of the objects."""
    unread: tuple[str, ...] = ()
    """Pieces of `text` that should have been coordinates and could not be read."""
    regions: tuple[Region, ...] = ()
    """What was asked about, each with what was said about it."""
    label_map: Int[Tensor, "height width"] | None = None
    """Class of every pixel at `size`, an index into the vocabulary that was asked for."""
    count: int | None = None
    """How many there are, where that was the question."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Numbers that the model took about itself, by name: how alike its layers are to a teacher's features, ..."""

    @property
    def key(self) -> Id | None:
        """What this answers: the record where an image has several, else the image."""
        return self.image_id if self.record_id is None else self.record_id
