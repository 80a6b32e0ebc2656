"""What enters a collator: one image with its objects, one clip with its tracks, one conversation with its images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mmcore.contract.values.parts import Draw, Encoded, Id, Images, Phrase, Region, Turn, VisualPrompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One transformed image with its annotations.

    Boxes are in pixels of the transformed image. `masks` is None when the source has none (boxes only).
    """

    image: UInt8[Tensor, "3 height width"]
    boxes_xyxy: Float[Tensor, "objects 4"]
    labels: Int[Tensor, " objects"]
    masks: Bool[Tensor, "objects height width"] | None
    draw: Draw
    image_id: Id
    original_size: tuple[int, int]
    """Height and width of the image before any transform, pixels."""
    record_id: Id | None = None
    """Where an image has several records (expressions, questions): which one this is."""
    expression: str | None = None
    """Referring expression, for grounding sources."""
    names: tuple[str, ...] | None = None
    """The words of each object, for sources whose labels are free text."""
    track_ids: Int[Tensor, " objects"] | None = None
    """The same number for one thing in all frames of a clip."""
    label_map: Int[Tensor, "height width"] | None = None
    """Class of every pixel; `IGNORED` where none is given."""
    ignore: Bool[Tensor, "height width"] | None = None
    """Where nothing is judged: crowds, the borders of annotations."""
    prompts: tuple[VisualPrompt, ...] = ()
    count: int | None = None
    """How many there are, where the record says so without marking each."""


@dataclass(frozen=True, slots=True)
class ClipSample:
    """Frames of one video, transformed alike, and what is tracked through them.

    Objects of all frames are laid end to end: row k is seen in frame `frame_index[k]` of the clip and is the thing
    `track_ids[k]`. A thing that is not seen in a frame has no row there.
    """

    frames: UInt8[Tensor, "frames 3 height width"]
    frame_numbers: tuple[int, ...]
    """Number of each frame within its video, from 0."""
    boxes_xyxy: Float[Tensor, "objects 4"]
    """Pixels of the transformed frames."""
    labels: Int[Tensor, " objects"]
    frame_index: Int[Tensor, " objects"]
    track_ids: Int[Tensor, " objects"]
    masks: Bool[Tensor, "objects height width"] | None
    draw: Draw
    image_id: Id
    """Of the video."""
    original_size: tuple[int, int]
    """Height and width of the frames before any transform, pixels."""
    record_id: Id | None = None
    expression: str | None = None
    """What is referred to throughout the clip."""
    names: tuple[str, ...] | None = None
    """The words of each row, for sources whose labels are free text."""
    frame_sizes: tuple[tuple[int, int], ...] | None = None
    """Height and width of each frame, where they differ; the rest of `frames` and of `masks` is padding."""

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, number: int) -> Sample:
        """One frame with the objects that are seen in it, in the order of their rows."""
        rows = self.frame_index == number
        height, width = self.frames.shape[-2:] if self.frame_sizes is None else self.frame_sizes[number]
        names = None if self.names is None else tuple(n for n, here in zip(self.names, rows.tolist()) if here)
        return Sample(
            image=self.frames[number, :, :height, :width],
            boxes_xyxy=self.boxes_xyxy[rows],
            labels=self.labels[rows],
            masks=None if self.masks is None else self.masks[rows][..., :height, :width],
            draw=self.draw,
            image_id=self.image_id,
            original_size=self.original_size,
            record_id=self.record_id,
            expression=self.expression,
            names=names,
            track_ids=self.track_ids[rows],
        )


@dataclass(frozen=True, slots=True)
class ConversationSample:
    """One tokenised conversation with its images and the regions it speaks of.

    Regions are in pixels of the original image, however the text spells them.
    """

    encoded: Encoded
    turns: tuple[Turn, ...]
    """What was said, for pictures and evaluation; image markers included."""
    images: Images
    """Preprocessed images by role, in the order of their placeholders; none for text."""
    draw: Draw
    image_id: Id | None
    """Of the first image; None for text."""
    original_size: tuple[int, int]
    """Height and width of the first image on disk, pixels; (0, 0) without one."""
    record_id: Id | None = None
    """Of the conversation or question: an image may have several."""
    regions: tuple[Region, ...] = ()
    """What is asked about or answered with, in the order in which the text first mentions it."""
    phrases: tuple[Phrase, ...] = ()
    """Which pieces of `turns` mean which of the regions."""
    prompts: tuple[VisualPrompt, ...] = ()
    count: int | None = None
    """How many there are, where the record says so without marking each."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """What frozen networks made of the images beforehand, by name: cached outputs of teachers or encoders."""
    max_new_tokens: int | None = None
    """Longest answer that is asked for; None leaves it to the model."""
