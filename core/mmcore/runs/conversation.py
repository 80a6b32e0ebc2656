"""Talk with a trained model: what was said before is remembered, answers come word by word.

A conversation is about one picture, or about none. When it has become longer than the model reads, its first rounds
are forgotten, and that is told.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mmcore.contract.model import Model, overrides
from mmcore.contract.values import Batch, Prediction, Turn
from mmcore.errors import UsageError
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation import MARKER

if TYPE_CHECKING:
    import numpy as np

Hear = Callable[[str], None]


def can_talk(model: Model) -> bool:
    """Whether a family holds conversations."""
    return overrides(model, Model.converse)


def can_be_shown(model: Model) -> bool:
    """Whether a family talks about something that is shown instead of named."""
    return "example" in inspect.signature(model.converse).parameters


class Conversation:
    """Questions and answers about one picture.

    Args:
        model: in eval mode on `device`.
        device: where it is.
        image: (height, width, 3) uint8 RGB; None talks without a picture.
        family: its name, for messages.
        example: (height, width, 3) uint8 RGB, what is spoken of, shown; for families with visual prompts.

    Raises:
        UsageError: the family gives no words, or cannot be shown an example.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | str,
        image: "np.ndarray | None",
        family: str = "this family",
        example: "np.ndarray | None" = None,
    ) -> None:
        if not can_talk(model):
            raise UsageError(
                f"{family} finds objects and holds no conversation",
                where="chat",
                do="ask for names or one expression: `mmcore predict RUN photo.jpg --names A,B`, or `mmcore app RUN`",
            )
        if example is not None and not can_be_shown(model):
            raise UsageError(
                f"{family} cannot be shown what is spoken of", where="--example", do="describe it in words"
            )
        if example is not None and image is None:
            what = "an example needs a picture"
            raise UsageError(what, where="--example", do="give the picture in which to look for it")
        self.model, self.device, self.image = model, device, image
        self._shown: dict[str, Any] = {} if example is None else {"example": example}
        self.turns: list[Turn] = []
        """What was said, the user first; ends with an answer."""
        self.forgotten = 0
        """Rounds of question and answer that did not fit any more, since the start."""

    def ask(self, question: str, hear: Hear | None = None) -> Prediction:
        """The answer to the next question; both are remembered.

        Args:
            question: in words; the picture needs no marker.
            hear: told the answer piece by piece while it grows.

        Raises:
            UsageError: there is no question, it alone is longer than the model reads, or the family answers without
                words.
        """
        question = question.replace(MARKER, "").strip()
        if not question:
            raise UsageError("there is no question", where="chat", do="write one")
        turns = [*self.turns, Turn("user", question)]
        with torch.inference_mode():
            batch, lost = self._fitting(turns)
            if hear is not None and isinstance(batch, ConversationBatch):
                batch.hear = hear
            (prediction,) = self.model.predict(batch.to(self.device))
        if prediction.text is None:
            raise UsageError("the answer has no words", where="chat", do="use predict()")
        self.forgotten += lost
        self.turns = [*turns[2 * lost :], Turn("assistant", prediction.text or "(nothing)")]
        return prediction

    def _fitting(self, turns: list[Turn]) -> tuple[Batch, int]:
        """The batch of as many of the last rounds as the model reads, and how many are left out."""
        for lost in range(len(turns) // 2 + 1):
            batch = self._batch(turns[2 * lost :])
            if not (isinstance(batch, ConversationBatch) and any(batch.sequences.cut)):
                return batch, lost
        raise UsageError(
            f"the question is longer than the model reads ({self.model.max_length} tokens)",
            where="chat",
            do="shorten it",
        )

    def _batch(self, turns: list[Turn]) -> Batch:
        if len(turns) == 1 and self.image is not None:  # as `mmcore predict` asks
            return self.model.prepare([self.image], prompt=turns[0].text, **self._shown)
        return self.model.converse(self.image, turns, **self._shown)
