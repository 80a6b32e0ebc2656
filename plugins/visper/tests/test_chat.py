"""A language model is talked to: answers stream, rounds are remembered, and forgotten when they do not fit."""

from functools import partial

import numpy as np
import pytest
import torch
from mmcore.contract.values import Turn
from mmcore.errors import UsageError
from mmcore.language.llava import answer
from mmcore.runs.conversation import Conversation
from mmcore_visper.config import TINY
from mmcore_visper.model import Visper

PICTURE = np.full((40, 60, 3), 30, np.uint8)


@pytest.fixture
def model(monkeypatch) -> Visper:
    monkeypatch.setattr(answer, "MAX_NEW_TOKENS", 6)
    torch.manual_seed(0)
    return Visper(TINY).eval()


def test_the_first_question_is_what_predict_asks_and_streams_to_the_same_text(model):
    (alone,) = model.predict(model.prepare([PICTURE], prompt="What is it?"))
    pieces: list[str] = []
    talk = Conversation(model, "cpu", PICTURE)
    assert talk.ask("What is it?", pieces.append).text == alone.text
    assert "".join(pieces) == alone.text
    assert len(pieces) > 1


def test_earlier_rounds_are_read_once_with_one_picture(model):
    turns = (Turn("user", "What is it?"), Turn("assistant", "A cat."), Turn("user", "Where?"))
    batch = model.converse(PICTURE, turns)
    read = model.tokenizer.decode(batch.sequences.ids[0].tolist())
    assert read.index("What is it?") < read.index("A cat.") < read.index("Where?")
    assert len(batch.images) == 1
    assert len(model.converse(None, turns).images) == 0


def test_rounds_that_do_not_fit_are_forgotten_from_the_front_and_counted(model, monkeypatch):
    room = model.prepare([PICTURE], prompt="word " * 12).sequences.shape[1] + 4
    monkeypatch.setattr(model, "config", model.config.replace(max_length=room))
    talk = Conversation(model, "cpu", PICTURE)
    asked = partial(talk.ask, "word " * 12)
    asked()
    assert talk.forgotten == 0
    asked()
    assert talk.forgotten == 1
    assert len(talk.turns) == 2
    with pytest.raises(UsageError, match="longer than the model reads"):
        talk.ask("word " * 40)
