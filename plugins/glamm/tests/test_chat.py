"""GLaMM is talked to: answers come word by word, as they read in the end, their marks left out."""

import numpy as np
import pytest
import torch
from mmcore.contract.values import Turn
from mmcore.errors import UsageError
from mmcore.language import generate
from mmcore.runs.conversation import Conversation
from mmcore_glamm.config import TINY
from mmcore_glamm.model import Glamm

PICTURE = np.full((40, 60, 3), 30, np.uint8)
MARKED = "<p> a red ring </p> [SEG] lies left of <p> a dog </p> [SEG] .</s>"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Glamm:
    """A model that says `MARKED`, whatever it is asked."""
    torch.manual_seed(0)
    model = Glamm(TINY).eval()
    script = model.tokenizer(MARKED, add_special_tokens=False).input_ids
    said = iter(script * 9)

    def next_word(pick: object, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        del pick
        return torch.tensor([next(said)] * len(logits)), torch.ones(len(logits))

    monkeypatch.setattr(generate._Pick, "__call__", next_word)
    return model


def test_an_answer_is_heard_word_by_word_without_its_marks(model: Glamm) -> None:
    pieces: list[str] = []
    answer = Conversation(model, "cpu", PICTURE).ask("Describe it.", pieces.append)
    assert answer.text == "a red ring lies left of a dog ."
    assert "".join(pieces) == answer.text
    assert len(pieces) > 5
    assert [answer.text[phrase.start : phrase.end] for phrase in answer.phrases] == ["a red ring", "a dog"]
    assert answer.masks is not None
    assert len(answer.masks) == 2


def test_an_answer_that_nobody_listens_to_is_the_same(model: Glamm) -> None:
    assert Conversation(model, "cpu", PICTURE).ask("Describe it.").text == "a red ring lies left of a dog ."


def test_boxes_of_earlier_questions_stay_with_them(model: Glamm) -> None:
    turns = (Turn("user", "What is [1, 2, 20, 30]?"), Turn("assistant", "A dog."), Turn("user", "And [5, 5, 9, 9]?"))
    assert len(model.converse(PICTURE, turns).boxes) == 2
    with pytest.raises(UsageError, match="speaks about a picture"):
        model.converse(None, turns)
