"""From a record to a sample: what is said becomes tokens and labels, the picture what the networks take.

ConversationSource   LLaVA records for training: every answer is learned
QuestionSource       single questions for evaluation: the prompt is left open at the answer
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import MAIN, ConversationSample, Draw, Encoded
from mmcore.data.cache.choice import Features, Found
from mmcore.data.entry import Opened
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.questions import Question, read_questions
from mmcore.data.images import MAX_PIXELS, read_facts, read_image
from mmcore.data.pictures import Inside, Pictures, picture_at, place_at
from mmcore.errors import DataError
from mmcore.language.processor import Processor
from mmcore.language.sequence import IMAGE

Rgb = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ConversationSource(DataSource):
    """LLaVA records.

    Args:
        name: under which the recipe knows it.
        records: by position.
        images: folder below which the records' images lie.
        processor: how text and pictures are read.
        features: what frozen networks say of the pictures, or need to see of them; None without such networks.
        squash_px: every picture is resized to a square of this side first.
        max_pixels: larger images are refused before decoding.
    """

    name: str
    records: LlavaIndex
    images: Pictures
    processor: Processor
    features: Features | None = None
    squash_px: int | None = None
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Content hash of the records, and what the features depend on."""
        return self.records.fingerprint + (f"+{self.features.fingerprint}" if self.features else "")

    def annotations(self) -> LlavaIndex:
        """The records."""
        return self.records

    def lengths(self) -> np.ndarray:
        """(records,) words, negative without an image."""
        return self.records.lengths()

    def pictures(self) -> Iterator[Path | Inside]:
        """The picture files of the usable records."""
        for position in range(len(self.records)):
            if not self.records.unusable(position) and (image := self.records[position].image) is not None:
                yield place_at(self.images, image)

    def shown(self, position: int) -> Shown:
        """The picture with the first question and answer."""
        record = self.records[position]
        rgb = record.read_image(self.images, max_pixels=self.max_pixels) if record.image is not None else None
        turns = record.turns()
        return Shown(rgb, question=turns[0].text.removeprefix("<image>\n"), answer=turns[1].text)

    def sample(self, draw: Draw) -> ConversationSample:
        """Record `draw.position`; nothing about it is random.

        Raises:
            DataError: the record or its image cannot be used; names file, record and field.
        """
        record = self.records[draw.position]
        rgb = record.read_image(self.images, max_pixels=self.max_pixels) if record.image is not None else None
        if rgb is not None:
            record = record.placed((rgb.shape[0], rgb.shape[1]), self.processor.boxes)
        turns = record.turns(self.processor.template)
        encoded = self.processor.conversation(turns, has_image=rgb is not None, where=record.where)
        _only_pictures(encoded, self.processor, record.where)
        if rgb is None or record.image is None:
            return ConversationSample(encoded, turns, {}, draw, None, (0, 0), record.id)
        seen = self._squashed(rgb)
        found = self.features.of(seen, place_at(self.images, record.image)) if self.features else Found({}, {})
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (self.processor.tower(seen),), **{name: (pixels,) for name, pixels in found.images.items()}},
            draw=draw,
            image_id=record.image,
            original_size=(rgb.shape[0], rgb.shape[1]),
            record_id=record.id,
            features=found.features,
        )

    def _squashed(self, rgb: Rgb) -> UInt8[np.ndarray, "_ _ 3"]:
        if self.squash_px is None:
            return rgb
        return np.asarray(Image.fromarray(rgb).resize((self.squash_px, self.squash_px)))


@dataclass(frozen=True)
class QuestionSource(DataSource):
    """Single questions about pictures, or about nothing but text, for evaluation.

    Args:
        name: of the validation set.
        questions: in file order.
        images: folder below which the pictures lie.
        processor: how text and pictures are read.
        suffix: added to every question: what kind of answer the benchmark wants.
        label: the file, for errors.
        content: hash of the file.
        max_new_tokens: longest answer.
        max_pixels: larger images are refused before decoding.
        conversations: the records that the questions are first turns of; None where the file holds questions.
    """

    name: str
    questions: tuple[Question, ...]
    images: Pictures
    processor: Processor
    suffix: str
    label: str
    content: str
    max_new_tokens: int
    max_pixels: int = MAX_PIXELS
    conversations: LlavaIndex | None = None

    def problems(self) -> Iterator[DataError]:
        """The errors of the records that cannot be asked."""
        return self.conversations.problems() if self.conversations else iter(())

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def fingerprint(self) -> str:
        """Content hash of the file and of what is added to its questions."""
        return f"{self.content}+{self.suffix}" if self.suffix else self.content

    def shown(self, position: int) -> Shown:
        """The picture with the question and the first right answer."""
        question = self.questions[position]
        found = question.image
        rgb = None if found is None else read_image(picture_at(self.images, found), max_pixels=self.max_pixels)
        return Shown(rgb, question=question.text, answer=question.answers[0] if question.answers else "")

    def sample(self, draw: Draw) -> ConversationSample:
        """Question `draw.position`.

        Raises:
            DataError: its image cannot be used; names file and record.
        """
        question = self.questions[draw.position]
        encoded, turns = self.processor.prompt(question.text + self.suffix, has_image=question.image is not None)
        _only_pictures(encoded, self.processor, f"{self.label}, record {draw.position} (id {question.id})")
        longest = self.max_new_tokens
        if question.image is None:
            return ConversationSample(encoded, turns, {}, draw, None, (0, 0), question.id, max_new_tokens=longest)
        try:
            rgb = read_image(picture_at(self.images, question.image), max_pixels=self.max_pixels)
        except DataError as error:
            where = f"{self.label}, record {draw.position} (id {question.id}): {error.where}"
            raise type(error)(error.what, where=where, known=error.known, do=error.do) from None
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (self.processor.tower(rgb),)},
            draw=draw,
            image_id=question.image,
            original_size=(rgb.shape[0], rgb.shape[1]),
            record_id=question.id,
            max_new_tokens=longest,
        )


def _only_pictures(encoded: Encoded, processor: Processor, where: str) -> None:
    """Refuse a text that speaks of something beside its picture, such as a region: no record shows any."""
    for marker, number in processor.placeholders.items():
        if number != IMAGE and (encoded.ids == number).any():
            raise DataError(
                f"the text has {marker}, and the record shows nothing for it",
                where=f"{where}, the text",
                do="write it in other words, or ask about it by a format that shows it",
            )


def open_questions(
    opened: Opened[Any], processor: Processor, *, suffix: str, max_new_tokens: int, max_pixels: int = MAX_PIXELS
) -> QuestionSource:
    """The questions of a validation set: its own file's, or the first turns of conversations.

    Records that cannot be asked are left out and counted on standard error.

    Args:
        opened: the entry.
        processor: how text and pictures are read.
        suffix: added to every question.
        max_new_tokens: longest answer.
        max_pixels: larger images are refused before decoding.

    Raises:
        DataError: the file is damaged.
    """
    path = opened.files[0]
    records = LlavaIndex(opened.index()) if opened.format.content == "conversations" else None
    source = QuestionSource(
        name=opened.name,
        questions=read_questions(path) if records is None else _first_turns(records, opened, processor, max_pixels),
        images=opened.images,
        processor=processor,
        suffix=suffix,
        label=str(path),
        content=records.fingerprint if records else hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
        max_new_tokens=max_new_tokens,
        max_pixels=max_pixels,
        conversations=records,
    )
    if lost := len(records) - len(source) if records else 0:
        told = f"validation set {opened.name!r}: {lost} of {lost + len(source)} records cannot be asked"
        print(f"{told} and are left out; `mmcore data check` lists them", file=sys.stderr)
    return source


def _first_turns(
    records: LlavaIndex, opened: Opened[Any], processor: Processor, max_pixels: int
) -> tuple[Question, ...]:
    """The first question of every usable training record, with its answer."""
    found = []
    for position in range(len(records)):
        if records.unusable(position):
            continue
        record = records[position]
        if record.boxes and record.image:
            facts = read_facts(picture_at(opened.images, record.image), max_pixels=max_pixels)
            record = record.placed((facts.height, facts.width), processor.boxes)
        asked, answered = record.turns()[:2]
        text = asked.text.removeprefix("<image>\n")
        found.append(Question(position, text, record.image, (answered.text,), {}))
    return tuple(found)


def answered_pairs(records: LlavaIndex) -> list[tuple[str, str]]:
    """Question and answer of every turn of a training file, from which blind guessing learns."""
    pairs = []
    for position in range(len(records)):
        if not records.unusable(position):
            turns = records[position].turns()
            asked = [turn.text.removeprefix("<image>\n") for turn in turns[::2]]
            pairs += list(zip(asked, (turn.text for turn in turns[1::2])))
    return pairs
