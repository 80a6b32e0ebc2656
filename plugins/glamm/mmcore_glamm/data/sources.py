"""Sources of samples: a record, its conversation, its picture for each encoder, its boxes and masks.

    records (mmcore.data.parts) -> conversation (dialogue.py) -> tokens, labels; picture -> CLIP, SAM; parts -> regions

Only conversations with masks show the picture to SAM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import MAIN, ConversationSample, Draw, Encoded, Phrase, Region, Turn, VisualPrompt
from mmcore.data.cache.choice import Features, Found
from mmcore.data.chance import Chance, Seeded
from mmcore.data.grounded import Grounded, Part
from mmcore.data.images import MAX_PIXELS
from mmcore.data.parts import PartRecords
from mmcore.data.pictures import Inside, Pictures, place_at, read_placed
from mmcore.data.shown import shown_regions
from mmcore.errors import DataError
from mmcore.language.conversation import MARKER
from mmcore.language.processor import Processor

from mmcore_glamm.batch import segs_within
from mmcore_glamm.data.dialogue import Spoken, speak
from mmcore_glamm.data.manners import Manner
from mmcore_glamm.data.templates import Banks
from mmcore_glamm.tokens import TokenIds


@dataclass(frozen=True)
class GroundedSource(DataSource):
    """Conversations made of annotations.

    Args:
        name: under which the recipe knows it.
        records: by position.
        images: folder below which the records' pictures lie.
        manner: how a record becomes a conversation.
        most: classes or expressions of one conversation.
        banks: the wordings.
        processor: how text and pictures are read.
        features: SAM's pixels of a picture, or what its encoder said of it; None for manners without masks.
        ids: of the words that stand for masks and boxes.
        cut_masks: whether a conversation may lose masks at its end, as in the released code.
        first: only so many records, from the first; None is all.
        max_pixels: larger images are refused before decoding.
    """

    name: str
    records: PartRecords
    images: Pictures
    manner: Manner
    most: int
    banks: Banks
    processor: Processor
    features: Features | None = None
    ids: TokenIds | None = None
    cut_masks: bool = False
    first: int | None = None
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.records) if self.first is None else min(self.first, len(self.records))

    @property
    def fingerprint(self) -> str:
        """Content hash of the records, and what the features depend on."""
        return self.records.fingerprint + (f"+{self.features.fingerprint}" if self.features else "")

    def annotations(self) -> Any:
        """The indexed records; None for folders and LMDBs, which have no index."""
        found = getattr(self.records, "records", self.records)
        return found if hasattr(found, "index") else None

    def pictures(self) -> Iterator[Path | Inside]:
        """The picture files of the usable records."""
        for position in range(len(self)):
            try:
                record = self.records[position]
            except DataError:
                continue
            yield place_at(self.images, record.image)

    def shown(self, position: int) -> Shown | None:
        """The picture with the masks that are to be drawn; None where words alone are judged."""
        sample = self.sample(Draw(self.name, position, 0))  # as evaluation draws its classes and wordings
        if sample is None or not any(one.mask is not None for one in sample.regions):
            return None
        record = self.records[position]
        rgb = read_placed(self.images, record.image, self.records.where(record), self.max_pixels)
        return shown_regions(rgb, sample.regions)

    def sample(self, draw: Draw) -> ConversationSample | None:
        """Record `draw.position`; which questions and classes, follows from `draw.seed`.

        Raises:
            DataError: the record or its picture cannot be used; names file, record and field.
        """
        return self.conversation(draw, Seeded(draw.seed))

    def conversation(self, draw: Draw, chance: Chance) -> ConversationSample | None:
        """The sample with these draws; raises as `sample`."""
        record = self.records[draw.position]
        spoken = speak(record, self.manner, self.most, self.banks, chance)
        if spoken is None:
            return None
        where = self.records.where(record)
        rgb = read_placed(self.images, record.image, where, self.max_pixels)
        try:
            phrases = spoken.phrases(cut=self.cut_masks)
        except DataError as error:
            raise DataError(error.what, where=where, do=error.do) from None
        turns = written(spoken.turns, self.processor)
        found = Found({}, {})
        if self.features is not None and spoken.has_masks:
            found = self.features.of(rgb, place_at(self.images, record.image))
        encoded = self.processor.conversation(turns, has_image=True, where=where)
        self._refuse_cut(encoded, spoken, where)
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (self.processor.tower(rgb),), **{name: (pixels,) for name, pixels in found.images.items()}},
            draw=draw,
            image_id=record.image,
            original_size=(rgb.shape[0], rgb.shape[1]),
            record_id=f"{self.name}/{draw.position}",
            regions=self._regions(record, spoken, (rgb.shape[0], rgb.shape[1])),
            phrases=as_written(phrases, spoken.turns, self.processor),
            prompts=tuple(box_prompt(spoken.parts[number], number) for number in spoken.boxes),
            features=found.features,
        )

    def _refuse_cut(self, encoded: Encoded, spoken: Spoken, where: str) -> None:
        """A conversation whose masks do not all fit is no sample."""
        if self.ids is None or self.cut_masks or not spoken.has_masks:
            return
        longest = self.processor.max_length
        kept = segs_within(encoded, self.ids, self.processor.image_rows, longest)
        if kept < len(spoken.parts):
            raise DataError(
                f"{len(spoken.parts) - kept} of {len(spoken.parts)} [SEG] lie beyond the longest length of {longest}",
                where=where,
                do="shorten the caption, ask for fewer classes (options.most), or raise --set max_length=...",
            )

    def _regions(self, record: Grounded, spoken: Spoken, size: tuple[int, int]) -> tuple[Region, ...]:
        if spoken.has_masks:
            bitmaps = self.records.bitmaps(record, spoken.parts, size)
            return tuple(
                Region(None, torch.from_numpy(np.ascontiguousarray(mask)), part.text)
                for part, mask in zip(spoken.parts, bitmaps, strict=True)
            )
        return tuple(Region(part.box_xyxy, None, part.text) for part in spoken.parts)


def box_prompt(part: Part, number: int) -> VisualPrompt:
    """The box of a `<bbox>`.

    Raises:
        DataError: the part has no box.
    """
    if part.box_xyxy is None:
        raise DataError(f"{part.text!r:.60} has no box", do="leave the record out")
    return VisualPrompt("box", torch.tensor(part.box_xyxy, dtype=torch.float32).view(2, 2), region=number)


def written(turns: Sequence[Turn], processor: Processor) -> tuple[Turn, ...]:
    """Turns with the image's marker as the template writes it."""
    image = processor.template.image
    return tuple(Turn(turn.role, turn.text.replace(MARKER, image)) for turn in turns)


def as_written(phrases: Sequence[Phrase], turns: Sequence[Turn], processor: Processor) -> tuple[Phrase, ...]:
    """Phrases of turns, for the same turns with the image's marker written out."""
    longer = len(processor.template.image) - len(MARKER)
    before = (longer * turns[one.turn].text.count(MARKER, 0, one.start) for one in phrases)
    return tuple(one._replace(start=one.start + by, end=one.end + by) for one, by in zip(phrases, before, strict=True))
