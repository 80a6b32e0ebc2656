"""From a record to a sample: what is said becomes tokens and labels, the picture what the tower and the teachers take.

ConversationSource   LLaVA records for training: every answer is learned
QuestionSource       single questions for evaluation: the prompt is left open at the answer
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from mmcore.contract.protocols import DataSource
from mmcore.contract.values import MAIN, ConversationSample, Draw
from mmcore.data.cache.choice import Features, Found
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.images import MAX_PIXELS, read_image, safe_join
from mmcore.errors import DataError
from mmcore.evaluate.vqa import Question
from mmcore.geometry.box_text import BoxText
from mmcore.geometry.coordinates import CONVENTIONS
from mmcore.language.conversation import MARKER, Template
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, IMAGE, Encoded, Turn
from mmcore.language.tokens import tokenize
from mmcore.vision.clip_images import ClipImages
from PIL import Image
from torch import Tensor

LLAVA_BOXES = BoxText(convention=CONVENTIONS["padded fractions"], box="[{0}, {1}, {2}, {3}]", prose=True)
"""How LLaVA-1.5 was taught to write a box."""

Rgb = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Reading:
    """How a variant and stage read text and pictures; shared by all sources.

    Attributes:
        template: how conversations are written and learned.
        tokenizer: of the language model.
        pixels: picture -> (3, side, side) as the tower takes it.
        max_length: longest sequence after expansion, tokens.
        image_rows: rows that an image and its task tokens take in the sequence.
        targets: for the embedding losses; None where there are none.
        squash_px: every picture is resized to a square of this side first, as the published probing does.
        max_pixels: larger images are refused before decoding.
        boxes: how a box of a record's `objects` is written into its text; as LLaVA-1.5 was taught.
    """

    template: Template
    tokenizer: Any
    pixels: ClipImages
    max_length: int
    image_rows: int
    targets: Features | None = None
    squash_px: int | None = None
    max_pixels: int = MAX_PIXELS
    boxes: BoxText = LLAVA_BOXES

    def conversation(self, turns: Sequence[Turn], *, has_image: bool, where: str) -> Encoded:
        """Tokens and labels of a training conversation.

        Raises:
            DataError: nothing of it could be learned, or its image does not fit; a long text is only cut.
        """
        try:
            encoded = encode(turns, self.template, self.tokenizer, self.max_length, has_image)
        except DataError as error:
            raise DataError(error.what, where=f"{where}, {error.where or 'conversations'}", do=error.do) from None
        problem = encoded.problem or self._lost(encoded, has_image)
        if problem:
            raise DataError(
                problem,
                where=f"{where}, conversations",
                do="shorten or remove the record, or raise --set max_length=...",
            )
        return encoded

    def _lost(self, encoded: Encoded, has_image: bool) -> str | None:
        """Why nothing is left once the image takes its rows and the sequence is cut at the maximum length."""
        grown = self.image_rows - 1 if has_image else 0
        learned = np.flatnonzero(encoded.labels != IGNORE)
        place = int(np.flatnonzero(encoded.ids == IMAGE)[0]) if has_image and (encoded.ids == IMAGE).any() else None
        if place is not None and place + self.image_rows > self.max_length:
            return f"the image takes {self.image_rows} tokens and does not fit a maximum length of {self.max_length}"
        first = int(learned[0]) + (grown if place is not None and learned[0] > place else 0)
        if first >= self.max_length:
            return f"no answer lies within the maximum length of {self.max_length} tokens"
        return None

    def tower(self, rgb: Rgb) -> Tensor:
        """A picture as the vision tower takes it, (3, side, side) float32."""
        return torch.as_tensor(self.pixels(rgb))

    def squashed(self, rgb: Rgb) -> Rgb:
        """A picture as everything else gets to see it."""
        if self.squash_px is None:
            return rgb
        return np.asarray(Image.fromarray(rgb).resize((self.squash_px, self.squash_px)))

    def prompt(self, text: str, *, has_image: bool) -> tuple[Encoded, tuple[Turn, ...]]:
        """A question with the assistant's turn left open, as at inference."""
        turns = (Turn("user", f"{MARKER}\n{text}" if has_image else text), Turn("assistant", ""))
        ids = tokenize(self.template.render(turns), self.tokenizer)
        return Encoded(ids, np.full_like(ids, IGNORE)), turns


@dataclass(frozen=True)
class ConversationSource(DataSource):
    """LLaVA records.

    Args:
        name: under which the recipe knows it.
        records: by position.
        images: folder below which the records' images lie.
        reading: how they are read.
    """

    name: str
    records: LlavaIndex
    images: Path
    reading: Reading

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Content hash of the records, and what the targets depend on."""
        targets = self.reading.targets
        return self.records.fingerprint + (f"+{targets.fingerprint}" if targets else "")

    def annotations(self) -> LlavaIndex:
        """The records."""
        return self.records

    def lengths(self) -> np.ndarray:
        """(records,) words, negative without an image."""
        return self.records.lengths()

    def pictures(self) -> Iterator[Path]:
        """The picture files of the usable records."""
        for position in range(len(self.records)):
            if not self.records.unusable(position) and (image := self.records[position].image) is not None:
                yield safe_join(self.images, image)

    def sample(self, draw: Draw) -> ConversationSample:
        """Record `draw.position`; nothing about it is random.

        Raises:
            DataError: the record or its image cannot be used; names file, record and field.
        """
        record = self.records[draw.position]
        rgb = record.read_image(self.images, max_pixels=self.reading.max_pixels) if record.image is not None else None
        if rgb is not None:
            record = record.placed((rgb.shape[0], rgb.shape[1]), self.reading.boxes)
        turns = record.turns(self.reading.template)
        encoded = self.reading.conversation(turns, has_image=rgb is not None, where=record.where)
        if rgb is None or record.image is None:
            return ConversationSample(encoded, turns, {}, draw, None, (0, 0), record.id)
        seen, targets = self.reading.squashed(rgb), self.reading.targets
        found = targets.of(seen, self.images / record.image) if targets else Found({}, {})
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (self.reading.tower(seen),), **{name: (pixels,) for name, pixels in found.images.items()}},
            draw=draw,
            image_id=record.image,
            original_size=(rgb.shape[0], rgb.shape[1]),
            record_id=record.id,
            features=found.features,
        )


@dataclass(frozen=True)
class QuestionSource(DataSource):
    """Single questions about pictures, or about nothing but text, for evaluation.

    Args:
        name: of the validation set.
        questions: in file order.
        images: folder below which the pictures lie.
        reading: how they are read.
        suffix: added to every question: what kind of answer the benchmark wants.
        label: the file, for errors.
        content: hash of the file.
        max_new_tokens: longest answer.
        conversations: the records that the questions are first turns of; None where the file holds questions.
    """

    name: str
    questions: tuple[Question, ...]
    images: Path
    reading: Reading
    suffix: str
    label: str
    content: str
    max_new_tokens: int
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

    def sample(self, draw: Draw) -> ConversationSample:
        """Question `draw.position`.

        Raises:
            DataError: its image cannot be used; names file and record.
        """
        question = self.questions[draw.position]
        encoded, turns = self.reading.prompt(question.text + self.suffix, has_image=question.image is not None)
        longest = self.max_new_tokens
        if question.image is None:
            return ConversationSample(encoded, turns, {}, draw, None, (0, 0), question.id, max_new_tokens=longest)
        try:
            rgb = read_image(safe_join(self.images, question.image), max_pixels=self.reading.max_pixels)
        except DataError as error:
            where = f"{self.label}, record {draw.position} (id {question.id}): {error.where}"
            raise type(error)(error.what, where=where, known=error.known, do=error.do) from None
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (self.reading.tower(rgb),)},
            draw=draw,
            image_id=question.image,
            original_size=(rgb.shape[0], rgb.shape[1]),
            record_id=question.id,
            max_new_tokens=longest,
        )
