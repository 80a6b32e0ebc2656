"""Tracks judged by YouTube-VIS's protocol: overlaps by hand, AP of simple cases, and a publisher's figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.values import Batch, Prediction
from mmcore.data.demo.clips import as_ytvis, draw_clip
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.videos import VideoRecords
from mmcore.errors import DataError
from mmcore.evaluate.youtube_vis import YoutubeVisEvaluator, track_overlaps
from mmcore.geometry import masks


def records(path: Path, cache: Path) -> VideoRecords:
    return VideoRecords(open_index(Videos(path), cache, workers=1), keep_empty=True)


@pytest.fixture
def clips(tmp_path: Path) -> VideoRecords:
    drawn = [draw_clip(0, number, 4) for number in (900, 7)]
    kinds = sorted({thing.kind for clip in drawn for thing in clip.things})
    content = as_ytvis(drawn, [{"id": 10 + number, "name": kind} for number, kind in enumerate(kinds)])
    (tmp_path / "clips.json").write_text(json.dumps(content))
    return records(tmp_path / "clips.json", tmp_path / "cache")


def perfect(found: VideoRecords, *, score: float = 0.9) -> list[Prediction]:
    """What the file says, as a model would say it."""
    said = []
    for record in found:
        for frame in range(len(record.frames)):
            seen = [i for i, track in enumerate(record.objects) if track.boxes_xywh[frame] is not None]
            boxes = torch.tensor([record.objects[i].boxes_xywh[frame] for i in seen]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            said.append(
                Prediction(
                    image_id=record.id,
                    size=(record.height, record.width),
                    boxes_xyxy=boxes,
                    scores=torch.full((len(seen),), score),
                    labels=torch.tensor([record.objects[i].category for i in seen]),
                    masks=[record.objects[i].segmentations[frame] for i in seen],
                    track_ids=torch.tensor(seen),
                    frame=frame,
                )
            )
    return said


def judged(found: VideoRecords, said: list[Prediction]) -> dict[str, float]:
    evaluator = YoutubeVisEvaluator(found)
    evaluator.update(Batch("clips", (), {}), said)
    return evaluator.summarise(evaluator.state())


def test_the_truth_scores_one(clips: VideoRecords) -> None:
    metrics = judged(clips, perfect(clips))
    assert metrics["segm/AP"] == metrics["bbox/AP"] == pytest.approx(1.0)
    assert metrics["segm/AssA"] == metrics["bbox/AssA"] == pytest.approx(1.0)
    assert set(metrics) <= set(YoutubeVisEvaluator(clips).metric_names)


def test_base_and_novel_categories_are_told_apart_where_the_file_does(clips: VideoRecords, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "clips.json").read_text())
    for number, category in enumerate(content["categories"]):
        category["partition"] = (0, 3, 1, 2)[number % 4]
    novel = {one["name"] for one in content["categories"] if one["partition"] >= 2}
    (tmp_path / "parts.json").write_text(json.dumps(content))
    found = records(tmp_path / "parts.json", tmp_path / "cache")
    names = found.index.meta["categories"]
    said = [  # nothing novel is found
        replace(one, scores=torch.tensor([0.0 if names[i] in novel else 0.9 for i in one.labels]), labels=wrong)
        for one in perfect(found)
        for wrong in [torch.tensor([0 if names[i] in novel else int(i) for i in one.labels], dtype=torch.int64)]
    ]
    metrics = judged(found, said)
    assert metrics["segm/APb"] == pytest.approx(1.0)
    assert metrics["segm/APn"] == 0
    assert {"segm/APb", "bbox/APn"} <= set(YoutubeVisEvaluator(found).metric_names)
    assert "segm/APb" not in judged(clips, perfect(clips))


def test_a_track_that_changes_its_thing_half_way_scores_less(clips: VideoRecords) -> None:
    said = perfect(clips)
    for prediction in said:
        if prediction.frame >= 2 and len(prediction.track_ids) > 1:
            object.__setattr__(prediction, "track_ids", prediction.track_ids.roll(1))
    metrics = judged(clips, said)
    assert metrics["segm/AP"] < 0.7
    assert metrics["segm/AssA"] < 0.7


def test_tracks_that_predict_would_not_show_have_no_association(clips: VideoRecords) -> None:
    assert "segm/AssA" not in judged(clips, perfect(clips, score=0.2))


def test_overlaps_add_up_over_time() -> None:
    def square(x: int) -> masks.Rle:
        bitmap = np.zeros((10, 20), np.uint8)
        bitmap[2:6, x : x + 4] = 1
        return masks.encode(bitmap)

    found = [[square(0), None, square(4)], [None, None, None]]
    truth = [[square(2), square(2), None], [square(0), None, square(4)]]
    expected = [[8 / (2 * 16 + 2 * 16 - 8), 1.0], [0.0, 0.0]]
    np.testing.assert_allclose(track_overlaps(found, truth, [0, 0]), expected, atol=1e-9)
    boxes = [[[0, 0, 4, 4], [0, 0, 4, 4]]]
    others = [[[2, 0, 4, 4], None], [[0, 0, 4, 4], [0, 0, 4, 4]]]
    np.testing.assert_allclose(track_overlaps(boxes, others, [0, 0]), [[8 / 40, 1.0]])
    np.testing.assert_allclose(
        track_overlaps(boxes, others, [1, 0]), [[8 / 32, 1.0]]
    )  # of a crowd, what is found counts


def test_a_video_that_nobody_annotated_is_an_error(clips: VideoRecords) -> None:
    (first, *_) = perfect(clips)
    object.__setattr__(first, "image_id", 99)
    with pytest.raises(DataError, match="video 99 is not annotated"):
        judged(clips, [first])


def test_figures_are_those_of_a_publishers_evaluator(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "saco_veval_toy"
    found = records(folder / "gt_ytvis.json", tmp_path)
    tracks = json.loads((folder / "pred_ytvis.json").read_text())
    expected = json.loads((folder / "reference_metrics.json").read_text())["dataset_results"]
    metrics = YoutubeVisEvaluator(found).judge(tracks, [record.id for record in found])
    assert metrics["segm/AP"] == pytest.approx(expected["video_mask_mAP_50_95"], abs=1e-12)
    assert metrics["bbox/AP"] == pytest.approx(expected["video_bbox_mAP_50_95"], abs=1e-12)
