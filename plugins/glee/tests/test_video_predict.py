"""A video on the command line: tracks and frames as JSON, a strip, and a film where PyAV is there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.data.demo.clips import draw_clip
from mmcore.errors import UsageError
from mmcore.runs.predict import Question
from mmcore.runs.predict_video import predict_video
from mmcore_glee.config import TINY
from mmcore_glee.model import Glee
from PIL import Image


@pytest.fixture(scope="module")
def model() -> Glee:
    torch.manual_seed(0)
    found = Glee(TINY.replace(num_queries=12, tracks=6)).eval()
    found.transform = {"test_min_size": 64, "test_max_size": 96}
    return found


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, content in enumerate(draw_clip(0, 3, 4).frames):
        (folder / f"{number}.jpg").write_bytes(content)
    return folder


def test_a_folder_of_frames_becomes_tracks_and_pictures(model: Glee, clip: Path, tmp_path: Path) -> None:
    answer = predict_video(model, clip, Question(names=("kite", "clock"), threshold=0.0), tmp_path / "out")
    written = json.loads(Path(answer["json"]).read_text())
    assert [frame["frame"] for frame in written["frames"]] == [0, 1, 2, 3]
    ids = {one["track_id"] for frame in written["frames"] for one in frame["objects"]}
    assert ids == {track["track_id"] for track in written["tracks"]}
    assert all(track["frames"] == 4 for track in written["tracks"])
    assert [track["score"] for track in written["tracks"]] == sorted(
        (track["score"] for track in written["tracks"]), reverse=True
    )
    assert np.asarray(Image.open(answer["picture"])).std() > 5
    if "film" in answer:
        assert Path(answer["film"]).stat().st_size > 500
    assert any("mask" in one for frame in written["frames"] for one in frame["objects"])
    again = predict_video(model, clip, Question(names=("kite",), threshold=0.0), tmp_path / "out", every=2)
    assert again["json"].endswith("clip-2.json")
    assert [frame["frame"] for frame in again["frames"]] == [0, 2]
    boxes = predict_video(model, clip, Question(names=("kite",), threshold=0.0, masks=False), tmp_path / "boxes")
    assert all(set(one) >= {"box_xyxy", "track_id"} for frame in boxes["frames"] for one in frame["objects"])
    assert not any("mask" in one for frame in boxes["frames"] for one in frame["objects"])


def test_one_thing_is_followed_for_an_expression(model: Glee, clip: Path, tmp_path: Path) -> None:
    answer = predict_video(model, clip, Question(prompt="the red kite"), tmp_path / "out")
    assert len(answer["tracks"]) == 1
    assert answer["tracks"][0]["name"] == "the red kite"


def test_a_family_without_videos_says_so(clip: Path, tmp_path: Path) -> None:
    from mmcore.contract.model import Model

    class Still(Model):
        pass

    with pytest.raises(UsageError, match="follows nothing through videos"):
        predict_video(Still(), clip, Question(), tmp_path / "out")
