"""Griffon is talked to in its own template; boxes come while they are written; an example is shown once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore.contract.values import Turn
from mmcore.errors import UsageError
from mmcore.language import generate
from mmcore.runs.chat import Chat
from mmcore.runs.conversation import Conversation
from mmcore.runs.demonstrate import Abilities, abilities, shown
from mmcore.runs.load import Predictor
from mmcore.show.marks import PALETTE
from mmcore_griffon.config import VARIANTS
from mmcore_griffon.model import Griffon
from PIL import Image

PHOTO, CROP = np.full((40, 60, 3), 90, np.uint8), np.full((10, 12, 3), 200, np.uint8)
BOXES = "cat-[0.100,0.200,0.300,0.400]&dog-[0.500,0.500,1.000,0.750]"
ROUNDS = (Turn("user", "Where is the cat?"), Turn("assistant", BOXES), Turn("user", "And the dog?"))


def model_of(variant: str = "tiny") -> Griffon:
    torch.manual_seed(0)
    return Griffon(VARIANTS[variant]).eval()


@pytest.fixture(scope="module")
def model() -> Griffon:
    return model_of()


@pytest.mark.parametrize("variant", ["tiny", "tiny-llama2", "tiny-qwen25"])
def test_a_first_question_is_what_predict_asks(variant: str) -> None:
    model = model_of(variant)
    for given in ({}, {"example": CROP}):
        alone = model.prepare([PHOTO], prompt="Where is it?", **given)
        first = model.converse(PHOTO, (Turn("user", "Where is it?"),), **given)
        assert alone.sequences.ids.tolist() == first.sequences.ids.tolist()
        assert alone.max_new_tokens == first.max_new_tokens == model.config.max_length
        assert torch.equal(alone.images, first.images)
        assert alone.other_images.keys() == first.other_images.keys()


def test_what_was_said_is_read_in_the_published_template(model: Griffon) -> None:
    batch = model.converse(PHOTO, ROUNDS)
    assert batch.turns[0][0].text == "<image>\nWhere is the cat?"
    said = model.tokenizer.decode(batch.sequences.ids[0].tolist()).replace("<pad>", "")
    assert said == (
        "<bos><start_of_turn>user\n\nWhere is the cat?<end_of_turn>\n"
        f"<start_of_turn>model\n{BOXES}<end_of_turn>\n"
        "<start_of_turn>user\nAnd the dog?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert len(model.converse(None, ROUNDS).images) == 0


def test_an_example_stands_behind_the_first_question_or_where_it_is_named(model: Griffon) -> None:
    batch = model.converse(PHOTO, ROUNDS, example=CROP)
    assert batch.turns[0][0].text.endswith("Where is the cat? <region>")
    named = (*ROUNDS[:2], Turn("user", "What is like <region> here?"))
    batch = model.converse(PHOTO, named, example=CROP)
    assert [turn.text.count("<region>") for turn in batch.turns[0]] == [0, 0, 1, 0]
    assert len(batch.sequences.slots["region"]) == len(batch.other_images["crop"]) == 1
    assert model.predict(batch)[0].text is not None


def test_markers_that_a_model_answered_are_no_pictures(model: Griffon) -> None:
    told = (ROUNDS[0], Turn("assistant", "<image> like <region>"), ROUNDS[2])
    assert len(model.converse(PHOTO, told).sequences.slots["image"]) == model.config.image_tokens


@pytest.mark.parametrize(
    ("image", "question", "example"),
    [(PHOTO, "What is <region>?", None), (PHOTO, "Is <region> like <region>?", CROP), (None, "Where?", CROP)],
)
def test_what_is_not_shown_or_shown_twice_is_refused(model: Griffon, image, question: str, example) -> None:
    with pytest.raises(UsageError):
        model.converse(image, (*ROUNDS[:2], Turn("user", question)), example=example)
    with pytest.raises(UsageError):
        Conversation(model, "cpu", image, "griffon", example).ask(question)


@pytest.fixture
def scripted(model: Griffon, monkeypatch: pytest.MonkeyPatch) -> Griffon:
    """A model that writes `BOXES`, whatever it is asked."""
    script = model.tokenizer(f"{BOXES}<end_of_turn>", add_special_tokens=False).input_ids
    said = iter(script * 9)

    def next_word(pick: object, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        del pick
        return torch.tensor([next(said)] * len(logits)), torch.ones(len(logits))

    monkeypatch.setattr(generate._Pick, "__call__", next_word)
    return model


def test_boxes_are_heard_while_they_are_written(scripted: Griffon) -> None:
    pieces: list[str] = []
    talk = Conversation(scripted, "cpu", PHOTO, "griffon", CROP)
    answer = talk.ask("What is here?", pieces.append)
    assert answer.text == "".join(pieces) == BOXES
    assert len(pieces) > 20
    assert answer.names == ("cat", "dog")
    assert answer.boxes_xyxy is not None
    assert answer.boxes_xyxy[1].tolist() == pytest.approx([30, 20, 60, 30])


def predictor_of(model: Griffon) -> Predictor:
    settings = SimpleNamespace(plugin="griffon", variant="tiny", stage=SimpleNamespace(class_names=(), name="instruct"))
    return Predictor(SimpleNamespace(model=model, settings=settings, origin="nowhere"), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"names": ["cat", "dog"]}, {"prompt": "Where is the cat?"}, {"example": CROP}])
def test_boxes_of_an_answer_are_drawn_and_listed_however_it_was_asked(scripted: Griffon, asked: dict) -> None:
    answer = predictor_of(scripted).predict(PHOTO, **asked, threshold=0)
    assert [one["box_xyxy"] for one in answer.json()["objects"]] == [[6.0, 8.0, 18.0, 16.0], [30.0, 20.0, 60.0, 30.0]]
    drawn = np.asarray(answer.draw())
    for colour in PALETTE[:2]:
        rows = np.nonzero((drawn == colour).all(-1).any(1))[0]
        assert rows.min() < 341 < rows.max(), "a box on the picture, and its words below"
    assert predictor_of(scripted).chat(PHOTO, "Where?") == BOXES


def test_the_page_talks_finds_and_is_shown_examples(scripted: Griffon) -> None:
    predictor = predictor_of(scripted)
    assert abilities(predictor) == Abilities(names=True, expression=True, talk=True, example=True)
    found = shown(predictor.predict(PHOTO, names=["cat", "dog"], threshold=0))
    assert [row[0] for row in found.rows] == ["cat", "dog"]
    assert found.words.count("<mark") == 2


def test_a_terminal_lists_and_draws_the_boxes_of_what_is_shown_by_path(scripted: Griffon, tmp_path: Path) -> None:
    for name, pixels in (("photo", PHOTO), ("crop", CROP)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    said, noted = list[str](), list[str]()
    talk = Chat(predictor_of(scripted), said.append, noted.append, tmp_path / "drawn")
    for line in (f"{tmp_path}/photo.png", f"/example {tmp_path}/crop.png", "What is like it?"):
        assert talk.line(line)
    assert "".join(said) == f"{BOXES}\n"
    assert [line.split(", box ")[1] for line in noted if ", box " in line] == ["6 8 18 16", "30 20 60 30"]
    assert (tmp_path / "drawn" / "answer.png").is_file()
