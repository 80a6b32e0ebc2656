"""What is pointed at instead of named: the batch that GLEE gets, in images and in the first frame of a video."""

import numpy as np
import pytest
import torch
from mmcore.data.demo.scenes import draw_scene
from mmcore.data.images import read_image
from mmcore.errors import UsageError
from mmcore.runs.predict import Question, predict_image
from mmcore.runs.visual import read_visual
from mmcore_glee.config import TINY
from mmcore_glee.model import Glee

KINDS = ("point:70,60", "box:40,40,100,90", "scribble:50,50,90,80")


@pytest.fixture(scope="module")
def model() -> Glee:
    torch.manual_seed(0)
    found = Glee(TINY.replace(num_queries=12)).eval()
    found.transform = {"test_min_size": 64, "test_max_size": 96}
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("scene") / "scene.jpg"
    path.write_bytes(draw_scene(0, 1000).jpeg)
    return read_image(path)


@pytest.mark.parametrize("said", KINDS)
def test_a_prompt_finds_one_object(model: Glee, scene: np.ndarray, said: str) -> None:
    found = predict_image(model, scene, Question(visual=read_visual(said)), "cpu")
    assert found.names == ("object",)
    assert found.masks is not None
    assert len(found.masks) == 1
    named = predict_image(model, scene, Question(names=("kite", "clock"), visual=read_visual(said)), "cpu")
    assert named.names is not None
    assert named.names[0] in ("kite", "clock")


@pytest.mark.parametrize("said", KINDS)
def test_the_prompt_lies_where_the_image_lies_in_the_batch(model: Glee, scene: np.ndarray, said: str) -> None:
    visual = read_visual(said).on(scene)
    batch = model.prepare([scene, scene[:90]], visual=visual) if said.startswith("box") else None
    batch = batch or model.prepare([scene], visual=visual)
    assert batch.prompt_masks is not None
    assert batch.prompt_mode == visual.kind
    height, width = batch.image_sizes[0]
    scale = height / scene.shape[0], width / scene.shape[1]
    rows, columns = batch.prompt_masks[0].nonzero(as_tuple=True)
    ys, xs = np.nonzero(visual.mask.numpy())  # type: ignore[union-attr]
    assert abs(rows.float().mean() - ys.mean() * scale[0]) < 1
    assert abs(columns.float().mean() - xs.mean() * scale[1]) < 1


def test_a_prompt_in_the_first_frame_follows_one_thing(model: Glee, scene: np.ndarray) -> None:
    batch = model.prepare_video([scene] * 3, visual=read_visual("box:40,40,100,90").on(scene))
    predictions = model.predict(batch)
    assert [len(one.scores) for one in predictions] == [1, 1, 1]  # type: ignore[arg-type]


def test_another_place_is_another_answer(model: Glee, scene: np.ndarray) -> None:
    found = [
        predict_image(model, scene, Question(visual=read_visual(said)), "cpu")
        for said in ("point:20,20", "point:99,99")
    ]
    assert not torch.equal(found[0].scores, found[1].scores)  # type: ignore[arg-type]


def test_a_model_without_visual_prompts_says_so(scene: np.ndarray) -> None:
    with pytest.raises(UsageError, match="without visual prompts"):
        Glee(TINY.replace(visual_prompt=False)).prepare([scene], visual=read_visual("point:2,2").prompt)
