"""Conversations: what is remembered, what is forgotten, and the lines of `mmcore chat`."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore.contract.model import Model
from mmcore.contract.values import Batch, Prediction, Turn
from mmcore.errors import MissingDataError, UsageError
from mmcore.language.streamed import Streamed
from mmcore.runs.chat import Chat
from mmcore.runs.load import Predictor
from mmcore.runs.predict import read_example
from PIL import Image


class Parrot(Model):
    """Answers with the number of turns it was shown and the last of them; with a picture, a box as well."""

    def prepare(self, images: Sequence[np.ndarray], *, names=None, prompt=None) -> Batch:
        return self.converse(images[0], [Turn("user", prompt)])

    def converse(self, image, turns) -> Batch:
        self.asked = (image, list(turns))
        return Batch("predict", (), {})

    def predict(self, batch: Batch) -> list[Prediction]:
        image, turns = self.asked
        text = f"{len(turns)}: {turns[-1].text}"
        if image is None:
            return [Prediction(None, (0, 0), text=text)]
        box = torch.tensor([[1.0, 2, 9, 9]])
        return [Prediction(0, image.shape[:2], box, torch.tensor([0.5]), None, ("thing",), text=text)]


def predictor_of(model: Model) -> Predictor:
    settings = SimpleNamespace(plugin="toy", variant="one", stage=SimpleNamespace(class_names=(), name="first"))
    return Predictor(SimpleNamespace(model=model, settings=settings, origin="nowhere"), "cpu")  # type: ignore[arg-type]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my photo.jpg"
    Image.new("RGB", (40, 30)).save(path)
    return path


@pytest.fixture
def chat(tmp_path: Path) -> tuple[Chat, list[str], list[str]]:
    said: list[str] = []
    noted: list[str] = []
    return Chat(predictor_of(Parrot()), said.append, noted.append, tmp_path / "drawn"), said, noted


def test_a_conversation_knows_what_was_said(photo):
    talk = predictor_of(Parrot()).conversation(photo)
    assert [talk.ask(q).text for q in ("one <image>", "two")] == ["1: one", "3: two"]
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2
    with pytest.raises(UsageError, match="no question"):
        talk.ask(" <image> ")
    assert len(talk.turns) == 4


def test_a_detector_says_that_it_holds_no_conversation():
    with pytest.raises(UsageError, match="toy finds objects and holds no conversation"):
        predictor_of(Model()).conversation()


def test_lines_change_the_picture_ask_and_command(chat, photo):
    talk, said, noted = chat
    assert talk.line("in words alone?")
    assert talk.line(str(photo))  # a path with a blank, as a person types it
    assert talk.line(f'"{photo}" what?')
    assert talk.line(str(photo).replace(" ", "\\ ") + " and what?")  # as a terminal drops it
    assert talk.line("go on")
    assert talk.line("/new")
    assert talk.line("again")
    assert not talk.line("/quit")
    assert said == ["1: in words alone?\n", "1: what?\n", "1: and what?\n", "3: go on\n", "1: again\n"]
    assert sum("40 x 30" in line for line in noted) == 3
    assert "  1 thing, 0.50, box 1 2 9 9" in noted
    assert len(list((talk.folder).glob("answer*.png"))) == 4


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("no.jpg what?", MissingDataError),
        ("/nwe", UsageError),
        ("/new what?", UsageError),
        ("/example 1,2,9,9", UsageError),
    ],
)
def test_a_wrong_line_is_told_and_changes_nothing(chat, line, error):
    talk, said, _ = chat
    with pytest.raises(error):
        talk.line(line)
    assert talk.line("well?")
    assert said == ["1: well?\n"]


def test_a_question_may_hold_quotes_and_slashes(chat):
    talk, said, _ = chat
    talk.line('is that "a dog" or what\'s that?')
    assert said == ['1: is that "a dog" or what\'s that?\n']


def test_streamed_pieces_are_the_answer_and_letters_are_whole():
    pieces: list[str] = []
    stream = Streamed(pieces.append, lambda ids: bytes(ids).decode(errors="replace"))
    for number in " Größe é ".encode():
        stream([number])
    assert "".join(pieces) == "Größe é"
    assert not any("�" in piece for piece in pieces)


def test_an_example_is_refused_without_a_picture_and_by_families_that_cannot_be_shown_one(chat, photo):
    talk, *_ = chat
    talk.example = read_example("1,2,9,9")
    with pytest.raises(UsageError, match="no picture to look for it in"):
        talk.line("How many are there?")
    with pytest.raises(UsageError, match="toy cannot be shown what is spoken of"):
        talk.line(str(photo))


class Shown(Parrot):
    """Remembers what it was shown."""

    seen: Sequence[tuple[int, ...] | None] = ()

    def prepare(self, images, *, names=None, prompt=None, example=None) -> Batch:
        return self.converse(images[0], [Turn("user", prompt)], example=example)

    def converse(self, image, turns, *, example=None) -> Batch:
        self.seen = (*self.seen, None if example is None else example.shape)
        return super().converse(image, turns)


def test_an_example_goes_along_with_every_question(photo):
    model = Shown()
    talk = predictor_of(model).conversation(photo, example=np.zeros((5, 4, 3), np.uint8))
    talk.ask("one")
    talk.ask("two")
    assert model.seen == ((5, 4, 3),) * 2
    with pytest.raises(UsageError, match="an example needs a picture"):
        predictor_of(model).conversation(example=np.zeros((5, 4, 3), np.uint8))


def test_an_example_is_shown_by_path_or_box_and_put_away_between_questions(photo, tmp_path):
    model, noted = Shown(), list[str]()
    talk = Chat(predictor_of(model), lambda piece: None, noted.append, tmp_path / "drawn")
    Image.new("RGB", (6, 5)).save(tmp_path / "a crop.png")
    escaped = str(tmp_path / "a crop.png").replace(" ", "\\ ")
    lines = [
        f'"{photo}" what?',
        f"/example {tmp_path}/a crop.png",
        "like it?",
        "/example 1,2,9,8",
        "and it?",
        "/example",
    ]
    for line in [*lines, "what?", f"/example {escaped}", "again?"]:
        assert talk.line(line)
    assert model.seen == (None, (5, 6, 3), (6, 8, 3), None, (5, 6, 3))
    assert "[nothing is shown]" in noted
    for wrong, error in [("/example 90,90,99,99", UsageError), (f"/example {tmp_path}/no.png", MissingDataError)]:
        with pytest.raises(error):
            talk.line(wrong)
    talk.line("still?")
    assert model.seen[-1] == (5, 6, 3), "a wrong one changes nothing"
