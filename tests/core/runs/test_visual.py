"""What a person points at: read from the command line, made a mask, given to the family, drawn beside the answer."""

import numpy as np
import pytest
import torch
from mmcore.contract.model import Model
from mmcore.contract.values import Prediction, VisualPrompt
from mmcore.data.visual import prompt_mask
from mmcore.errors import UsageError
from mmcore.runs.predict import Question, predict_file, predict_image
from mmcore.runs.visual import read_visual
from PIL import Image


@pytest.mark.parametrize(
    ("said", "pixels", "box"),
    [
        ("point:40,30", 2 * 2 * 2 * 2, (38, 28, 42, 32)),
        ("point:0,0", 2 * 2, (0, 0, 2, 2)),
        ("box:10,20,50,60", 40 * 40, (10, 20, 50, 60)),
        ("box:50,60,10,20", 40 * 40, (10, 20, 50, 60)),
    ],
)
def test_points_and_boxes_cover_what_is_published(said: str, pixels: int, box: tuple[int, ...]) -> None:
    mask = prompt_mask(read_visual(said).prompt, (80, 80))
    rows, columns = mask.nonzero()
    assert mask.sum() == pixels
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


def test_a_scribble_is_a_line_through_its_points() -> None:
    mask = prompt_mask(read_visual("scribble:10,10,70,10,70,70").prompt, (80, 80))
    assert mask[10, 10:70].all()
    assert mask[12:68, 70].all()
    assert 60 < mask.sum() < 600
    assert not mask[40, 10:60].any()


def test_a_mask_is_a_file_whose_nonzero_pixels_are_meant(tmp_path) -> None:
    drawn = np.zeros((20, 30), np.uint8)
    drawn[5:9, 6:12] = 1
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    prompt = read_visual(f"mask:{tmp_path / 'mask.png'}").prompt
    assert np.array_equal(prompt_mask(prompt, (20, 30)), drawn)
    with pytest.raises(UsageError, match="30x20, the image 40x20"):
        prompt_mask(prompt, (20, 40))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("pont:1,2", "is no visual prompt"),
        ("point:1", "is not where a point is"),
        ("box:1,2,3", "is not where a box is"),
        ("scribble:1,2", "is not where a scribble is"),
        ("scribble:1,2,x,4", "is not where a scribble is"),
        ("point:nan,1", "not inside"),
        ("point:90,1", "not inside"),
        ("box:5,5,5,9", "covers no pixel"),
    ],
)
def test_what_means_nothing_is_refused(said: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompt_mask(read_visual(said).prompt, (80, 80))


class Pointed(Model):
    def prepare(self, images, *, names=None, prompt=None, visual=None):  # type: ignore[no-untyped-def]
        self.asked: VisualPrompt = visual
        return torch.zeros(1)

    def predict(self, batch):  # type: ignore[no-untyped-def]
        found = Prediction(0, (40, 60), boxes_xyxy=torch.tensor([[5.0, 6, 20, 30]]), scores=torch.tensor([0.7]))
        return [found]


@pytest.mark.parametrize("said", ["point:20,20", "box:4,6,20,30", "scribble:5,5,20,20"])
def test_the_family_gets_the_region_and_the_picture_shows_it(said: str, tmp_path) -> None:
    Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "photo.png")
    model = Pointed()
    answer = predict_file(model, tmp_path / "photo.png", Question(visual=read_visual(said)), tmp_path / "out")
    assert model.asked.mask is not None
    assert np.array_equal(model.asked.mask.numpy(), prompt_mask(read_visual(said).prompt, (40, 60)))
    assert answer["visual"] == said
    assert len(answer["regions"]) == 1
    plain = predict_file(model, tmp_path / "photo.png", Question(), tmp_path / "out")
    assert np.asarray(Image.open(answer["picture"])).tobytes() != np.asarray(Image.open(plain["picture"])).tobytes()


def test_a_family_without_visual_prompts_says_so() -> None:
    with pytest.raises(UsageError, match="cannot be shown"):
        predict_image(Model(), np.zeros((40, 60, 3), np.uint8), Question(visual=read_visual("point:2,2")), "cpu")
