"""Trained models in Python: what may be given as a picture, and what an answer holds."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import mmcore
import numpy as np
import pytest
import torch
from mmcore.contract.model import Model
from mmcore.contract.values import Batch, Prediction
from mmcore.errors import DataError, MissingDataError, UsageError
from mmcore.runs.load import Predictor, load
from mmcore.runs.predict import read_example
from PIL import Image


class Namer(Model):
    """Finds the picture's left half under every name; with a prompt it answers in words."""

    def prepare(self, images: Sequence[np.ndarray], *, names=None, prompt=None) -> Batch:
        self.asked = (images[0], names, prompt)
        return Batch("predict", (), {})

    def predict(self, batch: Batch) -> list[Prediction]:
        image, names, prompt = self.asked
        height, width = image.shape[:2]
        if prompt is not None:
            return [Prediction(0, (height, width), text=f"{prompt} {image[0, 0].tolist()}")]
        words = tuple(names or ("own",))
        boxes = torch.tensor([[0.0, 0, width / 2, height]]).repeat(len(words), 1)
        scores = 0.9 - 0.4 * torch.arange(len(words))
        return [Prediction(0, (height, width), boxes, scores, torch.arange(len(words)), words)]


@pytest.fixture
def predictor() -> Predictor:
    settings = SimpleNamespace(plugin="toy", stage=SimpleNamespace(class_names=()))
    opened = SimpleNamespace(model=Namer(), settings=settings, origin="nowhere")
    return Predictor(opened, "cpu")  # type: ignore[arg-type]


@pytest.fixture
def pixels() -> np.ndarray:
    image = np.full((30, 40, 3), 7, np.uint8)
    image[..., 0] = 200
    return image


def test_a_file_a_pil_image_and_an_array_are_the_same_picture(predictor, pixels, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    pictures = (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(pixels).convert("RGBA"), pixels)
    assert {predictor.chat(picture, "colour?") for picture in pictures} == {"colour? [200, 7, 7]"}


def test_an_answer_is_values_json_and_a_drawing(predictor, pixels) -> None:
    answer = predictor.predict(pixels, names=["cat", "dog"])
    assert answer.prediction.names == ("cat", "dog")
    assert [one["name"] for one in answer.json()["objects"]] == ["cat", "dog"]
    assert max(answer.draw().size) >= 512
    assert "cat 0.90" in repr(answer)
    few = predictor.predict(pixels, names=["cat", "dog"], threshold=0.6)
    assert [one["name"] for one in few.json()["objects"]] == ["cat"]
    assert len(predictor.predict(pixels, names=["cat", "dog"], top=1).json()["objects"]) == 1
    assert predictor.predict(pixels).prediction.names == ("own",)


@pytest.mark.parametrize(
    ("picture", "error"),
    [
        (np.zeros((4, 4), np.uint8), UsageError),
        (np.zeros((4, 4, 3), np.float32), UsageError),
        (3, UsageError),
        ("nothing/here.jpg", DataError),
    ],
)
def test_what_is_no_picture_is_refused(predictor, picture, error) -> None:
    with pytest.raises(error):
        predictor.predict(picture)


def test_a_picture_that_is_not_there_is_told_with_its_neighbour(predictor, pixels, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    for ask in (lambda path: predictor.predict(path), lambda path: read_example(str(path))):
        with pytest.raises(MissingDataError, match="there is no image") as caught:
            ask(tmp_path / "phoot.png")
        assert caught.value.do == "did you mean 'photo.png'?"


@pytest.mark.parametrize("other", ["prompt", "example"])
def test_two_ways_of_asking_are_refused(predictor, pixels, other: str) -> None:
    with pytest.raises(UsageError, match="two ways"):
        predictor.predict(pixels, names=["cat"], **{other: pixels if other == "example" else "the cat"})


def test_a_question_goes_with_what_is_shown(predictor, pixels, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("mmcore.runs.load.predict_image", lambda model, image, question, device: asked.append(question))
    predictor.predict(pixels, prompt="How many?", example=pixels[:8, :9])
    predictor.predict(pixels, example=pixels)
    (first, second) = asked
    assert (first.prompt, first.example.picture.shape, first.threshold) == ("How many?", (8, 9, 3), 0.0)
    assert (second.prompt, second.names, second.threshold) == (None, None, 0.0)


def test_what_is_meant_is_pointed_at_as_on_the_command_line(predictor, pixels, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("mmcore.runs.load.predict_image", lambda model, image, question, device: asked.append(question))
    predictor.predict(pixels, visual="box:1,2,30,20")
    (question,) = asked
    assert question.visual.prompt.points_xy.flatten().tolist() == [1, 2, 30, 20]
    assert question.threshold == 0.0
    for more in ({"prompt": "the cat"}, {"example": pixels}):
        with pytest.raises(UsageError, match="all that is meant"):
            predictor.predict(pixels, visual="point:1,2", **more)
    with pytest.raises(UsageError, match="no visual prompt"):
        predictor.predict(pixels, visual="ring:1,2")


def test_a_model_on_the_hub_that_cannot_be_had_says_so(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDataError, match="offline"):
        load("hf://somebody/something")


def test_the_package_shows_its_public_names_only() -> None:
    assert "load" in dir(mmcore)
    assert set(dir(mmcore)) == set(mmcore.__all__)
