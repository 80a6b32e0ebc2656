"""What is said and shown to what the model reads: turns to tokens and labels, a picture to the tower's pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmcore.contract.values import Encoded, Turn
from mmcore.errors import DataError
from mmcore.geometry.box_text import BoxText
from mmcore.geometry.coordinates import CONVENTIONS
from mmcore.language.conversation import MARKER, Template, normalise
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.language.tokens import IMAGES, tokenize
from mmcore.vision.clip_images import ClipImages

LLAVA_BOXES = BoxText(convention=CONVENTIONS["padded fractions"], box="[{0}, {1}, {2}, {3}]", prose=True)
"""How LLaVA-1.5 was taught to write a box."""


@dataclass(frozen=True)
class Processor:
    """How a variant and stage read text and pictures; shared by all sources, and by prompts at inference.

    Attributes:
        template: how conversations are written and learned.
        tokenizer: of the language model.
        pixels: picture -> (3, side, side) as the tower takes it.
        max_length: longest sequence after expansion, tokens.
        image_rows: rows that an image and what follows it take in the sequence.
        boxes: how a box of a record's `objects` is written into its text.
        placeholders: what stands for rows that are no words, and its negative id.
    """

    template: Template
    tokenizer: Any
    pixels: ClipImages
    max_length: int
    image_rows: int
    boxes: BoxText = LLAVA_BOXES
    placeholders: Mapping[str, int] = field(default_factory=lambda: dict(IMAGES))

    def conversation(self, turns: Sequence[Turn], *, has_image: bool, where: str) -> Encoded:
        """Tokens and labels of a training conversation.

        Raises:
            DataError: nothing of it could be learned, or its image does not fit; a long text is only cut.
        """
        try:
            encoded = encode(turns, self.template, self.tokenizer, self.max_length, has_image, self.placeholders)
        except DataError as error:
            raise DataError(error.what, where=f"{where}, {error.where or 'conversations'}", do=error.do) from None
        problem = encoded.problem or self._lost(encoded, has_image)
        if encoded.problem and turns[-1].role == "user":
            raise DataError(
                "the conversation ends with a question that has no answer",
                where=f"{where}, conversations",
                do="add the answer, or remove the last turn",
            )
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

    def tower(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Tensor:
        """A picture as the vision tower takes it, (3, side, side) float32."""
        return torch.as_tensor(self.pixels(rgb))

    def prompt(self, text: str, *, has_image: bool) -> tuple[Encoded, tuple[Turn, ...]]:
        """A question with the assistant's turn left open, as at inference."""
        return self.dialogue((Turn("user", text),), has_image=has_image)

    def dialogue(self, turns: Sequence[Turn], *, has_image: bool) -> tuple[Encoded, tuple[Turn, ...]]:
        """A conversation that ends with a question, the assistant's turn after it left open; the image comes first.

        Args:
            turns: the user first, speakers in turn; without image markers.
            has_image: whether they speak of a picture.
        """
        (_, first), *rest = turns
        whole = (Turn("user", f"{MARKER}\n{first}" if has_image else first), *rest, Turn("assistant", ""))
        return self.asked(whole), whole

    def exchange(self, question: str, answer: str) -> tuple[Turn, Turn]:
        """A question and its answer as this template has them, the picture's marker in front."""
        said = ({"from": "human", "value": question}, {"from": "gpt", "value": answer})
        asked, answered = normalise(said, image=self.template.image, keep_first=self.template.keep_first)
        return asked, answered

    def asked(self, turns: Sequence[Turn]) -> Encoded:
        """Turns of which the last is left open, as at inference."""
        ids = tokenize(self.template.written(turns), self.tokenizer, self.placeholders)
        return Encoded(ids, np.full_like(ids, IGNORE))
