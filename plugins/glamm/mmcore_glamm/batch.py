"""Conversations with boxes and masks as one batch: every box beside its `<bbox>`, every mask beside its `[SEG]`.

Samples of one picture share a row of the image tensors, so encoders see each picture once however many conversations
speak of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Encoded
from mmcore.errors import DataError
from mmcore.language.batch import ConversationBatch
from mmcore.language.collate import ConversationCollator
from mmcore.language.processor import Processor
from mmcore.language.sequence import IMAGE, Sequences
from torch import Tensor

from mmcore_glamm.tokens import TokenIds

if TYPE_CHECKING:
    from mmcore_glamm.config import GlammConfig

REGION, SEG = "region", "seg"
"""The kind of rows that stand for boxes; the watched word."""


@dataclass(slots=True)
class GlammBatch(ConversationBatch):
    """Rows of `images`, of `other_images` and of `features` are pictures; several samples may speak of one."""

    image_rows: Int[Tensor, " placeholders"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Picture of every image placeholder, in sample order."""
    boxes: Float[Tensor, "boxes 4"] = field(default_factory=lambda: torch.zeros(0, 4))
    """One for each `<bbox>` in sample order: left, top, right, bottom as fractions of the original picture's sides."""
    region_rows: Int[Tensor, " regions"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Pictures that have boxes."""
    box_rows: Int[Tensor, " boxes"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Which of them each box lies in."""
    seg_places: Int[Tensor, " masks"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Flat positions of the states that predict those `[SEG]`s."""
    mask_rows: Int[Tensor, " masks"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """For each `[SEG]` with a picture for SAM, in sample order: its row among those pictures."""
    num_masks: tuple[int, ...] = ()
    """Of each sample."""
    masks: tuple[UInt8[Tensor, "_ height width"], ...] = ()
    """Of each sample that has some: what its `[SEG]`s should become, at the size of its picture."""
    segment_rows: tuple[int | None, ...] = ()
    """Of each sample: its row among the pictures for SAM."""
    given: bool = False
    """Whether answers are in the text already, so that prediction reads their masks off and writes nothing."""
    called: str = ""
    """What masks are called that stand behind no phrase: the names that were asked for."""

    def first_image(self, sample: int) -> int | None:
        """Row of `images` that a sample shows first, which others may show as well; None of a text."""
        owners = self.image_samples.tolist()
        return int(self.image_rows[owners.index(sample)]) if sample in owners else None


@dataclass(frozen=True)
class GlammCollator(ConversationCollator):
    """Makes batches of samples of one source.

    Args:
        box_id: vocabulary id of `<bbox>`.
        cut_masks: whether masks beyond the number of a sample's `[SEG]`s are dropped, as in the released code.
        rounded_boxes: whether boxes are rounded to half and then to bfloat16 precision, as in the released evaluation.
        given: see `GlammBatch.given`.
    """

    box_id: int = -1
    rounded_boxes: bool = False
    cut_masks: bool = False
    given: bool = False

    def __call__(self, samples: Sequence[ConversationSample], seed: int) -> GlammBatch:
        """One batch of samples, in their order; nothing is drawn."""
        return GlammBatch(**self.fields(samples))

    def fields(self, samples: Sequence[ConversationSample]) -> dict[str, Any]:
        """Every field of the batch.

        Raises:
            DataError: a sample has another number of boxes or masks than words that stand for them.
        """
        pictures, once = _pictures(samples)
        fields = super().fields(once)
        sequences: Sequences = fields["sequences"]
        placed = [(n, pictures[n]) for n, sample in enumerate(samples) for _ in _marks(sample.encoded, IMAGE)]
        boxes = [_boxes(sample, len(_marks(sample.encoded, self.box_id))) for sample in samples]
        owners = [pictures[n] for n, own in enumerate(boxes) for _ in own]
        regions = sorted(set(owners))
        segment = _segment_rows(once, pictures)
        counts = _counts(sequences)
        num_masks = tuple(0 if row is None else count for row, count in zip(segment, counts, strict=True))
        masks = () if self.given else self._masks(samples, num_masks, segment)
        fields["normalisers"]["masks"] = float(sum(num_masks))
        return fields | {
            "image_samples": torch.tensor([sample for sample, _ in placed], dtype=torch.int64),
            "image_rows": torch.tensor([row for _, row in placed], dtype=torch.int64),
            "boxes": _rounded(torch.cat(boxes)) if self.rounded_boxes else torch.cat(boxes),
            "region_rows": torch.tensor(regions, dtype=torch.int64),
            "box_rows": torch.tensor([regions.index(row) for row in owners], dtype=torch.int64),
            "seg_places": sequences.found[SEG][np.repeat([row is not None for row in segment], counts)] - 1,
            "mask_rows": torch.tensor(
                [row for row, count in zip(segment, num_masks) for _ in range(count)], dtype=torch.int64
            ),
            "num_masks": num_masks,
            "masks": masks,
            "segment_rows": segment,
            "given": self.given,
        }

    def _masks(
        self, samples: Sequence[ConversationSample], counts: Sequence[int], segment: Sequence[int | None]
    ) -> tuple[UInt8[Tensor, "_ height width"], ...]:
        """The masks of the samples that have any."""
        shown = [(s, count) for s, count, row in zip(samples, counts, segment, strict=True) if row is not None]
        found = [(_targets(sample, count, self.cut_masks), count) for sample, count in shown]
        return tuple(masks for masks, count in found if count)


def collator(config: "GlammConfig", processor: Processor, **layout: Any) -> GlammCollator:
    """The collator of a configuration; `layout` is its `padding_side` or `given`."""
    ids = TokenIds.of(processor.tokenizer)
    drawn = {"tokenizer": processor.tokenizer, "pixels": processor.pixels}
    return collator_of(config, ids, processor.max_length, **drawn, **layout)


def collator_of(config: "GlammConfig", ids: TokenIds, max_length: int, **layout: Any) -> GlammCollator:
    """The same of known vocabulary ids."""
    return GlammCollator(
        {**config.expansion, ids.box: ((REGION, 1),)},
        config.image_size,
        max_length,
        watch={SEG: ids.seg},
        box_id=ids.box,
        cut_masks=config.published.cut_masks,
        rounded_boxes=config.published.rounded_boxes and layout.get("padding_side") == "left",
        **layout,
    )


def segs_within(encoded: Encoded, ids: TokenIds, image_rows: int, max_length: int) -> int:
    """How many of a sample's `[SEG]`s the longest length leaves, once its image takes its rows."""
    rows = np.where(encoded.ids == IMAGE, image_rows, 1)
    return int((np.cumsum(rows)[encoded.ids == ids.seg] <= max_length).sum())


def _marks(encoded: Encoded, word: int) -> np.ndarray:
    return np.flatnonzero(encoded.ids == word)


def _pictures(samples: Sequence[ConversationSample]) -> tuple[list[int], list[ConversationSample]]:
    """Picture of each sample, and the samples with each picture left to the first that has it."""
    rows: dict[Any, int] = {}
    pictures, once = [], []
    for number, sample in enumerate(samples):
        parts = (*sorted(sample.images), *sorted(sample.features))
        known = number if sample.image_id is None else (sample.image_id, parts)
        first = known not in rows
        pictured = bool(sample.images.get(MAIN))
        pictures.append(rows.setdefault(known, len(rows)) if pictured else -1)
        once.append(sample if first or not pictured else replace(sample, images={}, features={}))
    return pictures, once


def _segment_rows(once: Sequence[ConversationSample], pictures: Sequence[int]) -> tuple[int | None, ...]:
    """Row of each sample among the pictures that have pixels or features for SAM."""
    rows: dict[int, int] = {}
    for sample, picture in zip(once, pictures, strict=True):
        if picture >= 0 and (SEGMENT in sample.images or SEGMENT in sample.features):
            rows.setdefault(picture, len(rows))
    return tuple(rows.get(picture) for picture in pictures)


def _boxes(sample: ConversationSample, count: int) -> Float[Tensor, "count 4"]:
    """One box for each `<bbox>`: those pointed at in order, the surplus left out, a lone one for all.

    Raises:
        DataError: there are too few.
    """
    if not count:
        return torch.zeros(0, 4)
    corners = [prompt.points_xy.flatten() for prompt in sample.prompts if prompt.points_xy is not None]
    height, width = sample.original_size
    given = torch.stack(corners).float() if corners else torch.zeros(0, 4)
    given = given / torch.tensor([width, height, width, height], dtype=torch.float32)
    if len(given) == 1:
        return given.expand(count, -1)
    if len(given) < count:
        raise DataError(f"{count} <bbox> and {len(given)} boxes", where=f"{sample.draw.source}, {sample.record_id}")
    return given[:count]


def _rounded(boxes: Tensor) -> Tensor:
    """Boxes with about three digits; what is computed from their coordinates is rounded as well."""
    return boxes.half().bfloat16()


def _counts(sequences: Sequences) -> list[int]:
    """`[SEG]`s of each sample that lie within the longest length."""
    length = sequences.shape[1]
    places = np.sort(sequences.found[SEG].numpy())
    starts = [place.row * length + place.start for place in sequences.locations]
    ends = [start + place.length for start, place in zip(starts, sequences.locations, strict=True)]
    return (np.searchsorted(places, ends) - np.searchsorted(places, starts)).tolist()


def _targets(sample: ConversationSample, count: int, cut: bool) -> UInt8[Tensor, "count height width"]:
    """The masks of a sample's `[SEG]`s.

    Raises:
        DataError: another number than `[SEG]`s, or of another size than the picture.
    """
    masks = [region.mask for region in sample.regions if region.mask is not None]
    where = f"{sample.draw.source}, {sample.record_id if sample.record_id is not None else sample.image_id}"
    if len(masks) < count or (len(masks) > count and not cut):
        raise DataError(
            f"{count} [SEG] and {len(masks)} masks",
            where=where,
            do="one mask for each; a conversation that the longest length cuts needs a larger max_length",
        )
    for mask in masks:
        if tuple(mask.shape) != tuple(sample.original_size):
            raise DataError(
                f"a mask of {tuple(mask.shape)} for a picture of {sample.original_size}", where=f"{where}, mask"
            )
    return torch.stack(masks[:count]) if count else torch.zeros(0, *sample.original_size, dtype=torch.uint8)
