import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.model import Model
from mmcore.contract.values import Batch, Phrase, Prediction
from mmcore.errors import DataError, MissingDataError, UsageError
from mmcore.geometry import masks
from mmcore.runs.predict import Question, find_images, predict_file, predict_image, read_example, to_json
from PIL import Image


class Finder(Model):
    """Finds one box for every name, the first the best."""

    def prepare(self, images: list[np.ndarray], *, names: Sequence[str] | None, prompt: str | None) -> Batch:
        self.asked = (names, prompt, [image.shape for image in images])
        return Batch("predict", (), {})

    def predict(self, batch: Batch) -> list[Prediction]:
        names, prompt, ((height, width, _),) = self.asked
        words = tuple(names or [prompt or "default"])
        count = len(words)
        boxes = torch.tensor([[0.0, 0, width / 2, height / 2]]).repeat(count, 1)
        rle = masks.encode(np.eye(height, width, dtype=np.uint8))
        scores = 0.9 - 0.4 * torch.arange(count)
        return [Prediction(0, (height, width), boxes, scores, torch.arange(count), words, [rle] * count)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30), (90, 120, 40)).save(path)
    return path


def test_a_picture_and_its_json_are_written(photo: Path, tmp_path: Path) -> None:
    answer = predict_file(Finder(), photo, Question(names=("cat", "dog"), threshold=0.6), tmp_path / "out")
    assert json.loads((tmp_path / "out/photo.json").read_text()).items() <= answer.items()
    assert [(one["name"], one["score"], one["box_xyxy"]) for one in answer["objects"]] == [("cat", 0.9, [0, 0, 20, 15])]
    assert masks.decode(answer["objects"][0]["mask"]).shape == (30, 40)
    with Image.open(tmp_path / "out/photo.png") as picture:
        assert max(picture.size) >= 512


def test_an_answer_never_replaces_another(photo: Path, tmp_path: Path) -> None:
    answers = [predict_file(Finder(), photo, Question(prompt="the dog"), tmp_path) for _ in range(3)]
    assert [Path(answer["json"]).name for answer in answers] == ["photo.json", "photo-2.json", "photo-3.json"]
    assert answers[0]["prompt"] == "the dog"


def test_a_family_that_cannot_predict_on_loose_images_says_so() -> None:
    with pytest.raises(UsageError, match="prepare"):
        predict_image(Model(), np.zeros((4, 4, 3), np.uint8), Question(), "cpu")


def test_phrases_point_at_the_kept_objects_in_their_new_order() -> None:
    found = Prediction(
        0,
        (10, 10),
        boxes_xyxy=torch.zeros(3, 4),
        scores=torch.tensor([0.5, 0.1, 0.8]),
        text="a cat and a dog",
        phrases=(Phrase(0, 2, 5, (0, 1)), Phrase(0, 12, 15, (2,))),
    )
    result = to_json(found, Question(threshold=0.3))
    assert [one["score"] for one in result["objects"]] == [0.8, 0.5]
    assert [phrase["objects"] for phrase in result["phrases"]] == [[1], [0]]


def test_folders_stand_for_the_images_inside(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images([tmp_path, photo]) == [photo, photo]


def test_a_missing_image_names_the_nearest(photo: Path) -> None:
    with pytest.raises(MissingDataError, match=r"did you mean 'photo\.jpg'"):
        find_images([photo.with_name("foto.jpg")])


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"fake\.png"):
        predict_file(Finder(), tmp_path / "fake.png", Question(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fake.png"]


class Shown(Finder):
    """Is shown what to look for."""

    def prepare(self, images, *, names=None, prompt=None, example=None):  # type: ignore[no-untyped-def]
        self.example = example
        return super().prepare(images, names=names, prompt=prompt)


def test_what_to_look_for_may_be_shown(photo: Path, tmp_path: Path) -> None:
    model, image = Shown(), np.zeros((30, 40, 3), np.uint8)
    predict_image(model, image, Question(example=read_example("10,5,20.4,25")), "cpu")
    assert model.example.shape == (20, 10, 3)
    answer = predict_file(model, photo, Question(example=read_example(str(photo))), tmp_path / "out")
    assert model.example.shape == (30, 40, 3)
    assert answer["example"] == str(photo)


@pytest.mark.parametrize(
    ("model", "said", "what"),
    [
        (Shown(), "50,5,60,25", "holds nothing of a 40x30 image"),
        (Shown(), "a,b,c,d", "is no box"),
        (Finder(), "1,2,3,4", "cannot be shown what to look for"),
    ],
)
def test_an_example_that_shows_nothing_is_refused(model: Model, said: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        predict_image(model, np.zeros((30, 40, 3), np.uint8), Question(example=read_example(said)), "cpu")
    assert what in str(caught.value)
