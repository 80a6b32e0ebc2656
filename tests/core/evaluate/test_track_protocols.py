"""Protocols of tracking: by hand, and on random videos by TrackEval's own readers of the files that are written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.videos import VideoRecords
from mmcore.errors import DataError, PluginError
from mmcore.evaluate.burst import COMMON, DISTRACTORS, BurstEvaluator
from mmcore.evaluate.mot import MotEvaluator
from mmcore.evaluate.tao import TaoEvaluator
from mmcore.evaluate.toolkit import require_toolkit
from mmcore.evaluate.youtube_vis import YoutubeVisEvaluator
from mmcore.geometry import masks

pytest.importorskip("trackeval", reason="pip install 'mmcore-trainer[video]'")

HEIGHT, WIDTH, LENGTH = 60, 90, 7
CATEGORIES = {2: "aerosol_can", 4: "airplane", 20: "armchair", 31: "ax", 36: "suitcase"}
"""TAO's ids: two common ones, a distractor, and others."""


def rectangle(box: tuple[float, ...]) -> masks.Rle:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y, width, height = (int(side) for side in box)
    mask[y : y + height, x : x + width] = 1
    return masks.encode(mask)


def write(
    folder: Path, videos: Mapping[int, list[dict[str, Any]]], frames: str = "YFCC/v{}", **lists: Any
) -> VideoRecords:
    """A file in YouTube-VIS's form: for each video, tracks with a category and a box or None a frame."""
    content: dict[str, Any] = {"videos": [], "annotations": []}
    for id_, tracks in videos.items():
        names = [f"{frames.format(id_)}/frame{frame:04d}.jpg" for frame in range(LENGTH)]
        searched = {name: values.get(id_, []) for name, values in lists.items()}
        ids = [100 * id_ + frame for frame in range(LENGTH)]
        sides = {"height": HEIGHT, "width": WIDTH, "length": LENGTH}
        content["videos"].append({"id": id_, **sides, "file_names": names, "image_ids": ids, **searched})
        for track in tracks:
            seen = [None if box is None else rectangle(box) for box in track["boxes"]]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "video_id": id_,
                    "category_id": track["category"],
                    "iscrowd": track.get("crowd", 0),
                    "bboxes": track["boxes"],
                    "segmentations": seen,
                }
            )
    content["categories"] = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "videos.json").write_text(json.dumps(content))
    return VideoRecords(open_index(Videos(folder / "videos.json"), folder / "cache", workers=1), keep_empty=True)


def said(videos: Mapping[int, list[dict[str, Any]]]) -> list[Prediction]:
    """What was found, one prediction a frame; a track has a category, a score and boxes."""
    order, found = list(CATEGORIES), []
    for id_, tracks in videos.items():
        for frame in range(LENGTH):
            seen = [(number, track) for number, track in enumerate(tracks) if track["boxes"][frame] is not None]
            boxes = torch.tensor([track["boxes"][frame] for _, track in seen]).reshape(-1, 4)
            found.append(
                Prediction(
                    image_id=id_,
                    size=(HEIGHT, WIDTH),
                    boxes_xyxy=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                    scores=torch.tensor([track["score"] for _, track in seen], dtype=torch.float64),
                    labels=torch.tensor([order.index(track["category"]) for _, track in seen], dtype=torch.int64),
                    masks=[rectangle(track["boxes"][frame]) for _, track in seen],
                    track_ids=torch.tensor([number for number, _ in seen], dtype=torch.int64),
                    frame=frame,
                )
            )
    return found


def random_videos(seed: int) -> tuple[dict[int, list[dict[str, Any]]], dict[int, list[dict[str, Any]]]]:
    """True tracks, and found ones: moved, lost, mixed up, misnamed, and some that are nowhere."""
    draw = np.random.default_rng(seed)
    ids = list(CATEGORIES)

    def drawn() -> list[Any]:
        start, speed = draw.uniform(0, 40, 2), draw.normal(0, 3, 2)
        places = [np.clip(start + speed * frame, 0, [WIDTH - 30, HEIGHT - 25]) for frame in range(LENGTH)]
        sides = draw.integers(8, 24, 2)
        return [(*map(float, np.round(place)), *map(float, sides)) for place in places]

    true, found = {}, {}
    for id_ in (1, 3, 8):
        tracks = [{"category": int(draw.choice(ids)), "boxes": drawn()} for _ in range(4)]
        others = []
        for track in tracks:
            category = track["category"] if draw.random() < 0.7 else int(draw.choice(ids))
            moved = [
                (*map(float, np.maximum(0, np.round(np.add(box[:2], draw.normal(0, 2, 2))))), *box[2:])
                for box in track["boxes"]
            ]
            others.append({"category": category, "score": float(draw.uniform(0.3, 1)), "boxes": moved})
        others += [
            {"category": int(draw.choice(ids)), "score": float(draw.uniform(0.3, 1)), "boxes": drawn()}
            for _ in range(2)
        ]
        for frame in range(LENGTH):
            if draw.random() < 0.4:  # two identities are exchanged
                one, other = (others[place]["boxes"] for place in draw.permutation(len(others))[:2])
                one[frame], other[frame] = other[frame], one[frame]
            for track in (*tracks, *others):
                if draw.random() < (0.5 if frame == 2 else 0.2):
                    track["boxes"][frame] = None
        for track in tracks:
            track["boxes"][0] = None if id_ == 3 else track["boxes"][0]  # a frame without any truth
        true[id_] = [track for track in tracks if any(track["boxes"])]
        found[id_] = [track for track in others if any(track["boxes"])]
    return true, found


def federated(seed: int, true: Mapping[int, list[dict[str, Any]]]) -> dict[str, dict[int, list[int]]]:
    draw = np.random.default_rng(seed)
    absent, partly = {}, {}
    for id_, tracks in true.items():
        present = {track["category"] for track in tracks}
        absent[id_] = [int(c) for c in CATEGORIES if c not in present and draw.random() < 0.5]
        partly[id_] = [int(c) for c in present if draw.random() < 0.3]
    return {"neg_category_ids": absent, "not_exhaustive_category_ids": partly}


def judged(evaluator: YoutubeVisEvaluator, predictions: list[Prediction], folder: Path) -> dict[str, float]:
    evaluator.update(Batch("clips", (), {}), predictions)
    items = evaluator.state()
    found = evaluator.summarise(items)
    assert set(found) <= set(evaluator.metric_names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.json").write_text(json.dumps(evaluator.results(items)))
    evaluator.write(items, folder)
    return found


def by_trackeval(dataset: Any, metrics: list[str]) -> dict[str, Any]:
    """Figures of every class, and of their mean, from files."""
    import trackeval

    quiet = {"PRINT_CONFIG": False, "PRINT_RESULTS": False, "TIME_PROGRESS": False, "OUTPUT_SUMMARY": False}
    quiet |= {"OUTPUT_DETAILED": False, "PLOT_CURVES": False, "BREAK_ON_ERROR": True, "LOG_ON_ERROR": None}
    makers = [getattr(trackeval.metrics, name) for name in metrics]
    made = [maker() if maker.__name__ == "HOTA" else maker({"PRINT_CONFIG": False}) for maker in makers]
    found, _ = trackeval.Evaluator(quiet).evaluate([dataset], made)
    return found[dataset.get_name()]["us"]["COMBINED_SEQ"]


def folders(root: Path, truth: Any, found: Any) -> dict[str, Any]:
    for place, content in ((root / "truth", truth), (root / "trackers/us/data", found)):
        place.mkdir(parents=True, exist_ok=True)
        (place / "file.json").write_text(json.dumps(content))
    return {
        "GT_FOLDER": str(root / "truth"), "TRACKERS_FOLDER": str(root / "trackers"), "PRINT_CONFIG": False
    }  # fmt: skip


def tao_truth(true: Mapping[int, list[dict[str, Any]]], lists: Mapping[str, Mapping[int, list[int]]]) -> dict[str, Any]:
    content: dict[str, Any] = {"videos": [], "images": [], "tracks": [], "annotations": []}
    for id_, tracks in true.items():
        listed = {name: values[id_] for name, values in lists.items()}
        content["videos"].append({"id": id_, "name": f"val/YFCC/v{id_}", **listed})
        content["images"] += [{"id": 100 * id_ + f, "video_id": id_, "frame_index": f} for f in range(LENGTH)]
        for track in tracks:
            entry = {"id": len(content["tracks"]) + 1, "category_id": track["category"], "video_id": id_}
            content["tracks"].append(entry)
            for frame, box in enumerate(track["boxes"]):
                if box is not None:
                    own = {"video_id": id_, "image_id": 100 * id_ + frame, "bbox": list(box)}
                    content["annotations"].append({**own, "track_id": entry["id"], "category_id": track["category"]})
    return {**content, "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]}


@pytest.mark.parametrize("seed", range(4))
def test_track_ap_is_that_of_trackeval_from_the_written_file(tmp_path: Path, seed: int, capsys) -> None:
    from trackeval.datasets import TAO

    true, found = random_videos(seed)
    lists = federated(seed, true)
    ours = judged(TaoEvaluator(write(tmp_path, true, **lists)), said(found), tmp_path / "out")
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    theirs = by_trackeval(TAO(folders(tmp_path, tao_truth(true, lists), results)), ["TrackMAP"])
    wanted = theirs["cls_comb_cls_av"]["TrackMAP"]
    assert 0 < ours["AP50"] < 1
    assert ours["AP"] == pytest.approx(wanted["AP_all"].mean())
    assert (ours["AP50"], ours["AP75"]) == pytest.approx((wanted["AP_all"][0], wanted["AP_all"][5]))
    assert ours["AR"] == pytest.approx(wanted["AR_all"].mean())


@pytest.mark.parametrize("seed", range(4))
def test_burst_is_judged_as_by_trackeval_from_the_written_file(tmp_path: Path, seed: int, capsys) -> None:
    from trackeval.datasets import BURST

    true, found = random_videos(seed)
    lists = federated(seed, true)
    ours = judged(BurstEvaluator(write(tmp_path, true, **lists)), said(found), tmp_path / "out")
    sequences = []
    for id_, tracks in true.items():
        frames = [
            {
                str(n): {"rle": rectangle(track["boxes"][f])["counts"]}
                for n, track in enumerate(tracks, 1)
                if track["boxes"][f]
            }
            for f in range(LENGTH)
        ]
        sequences.append(
            {
                **{"id": id_, "dataset": "YFCC", "seq_name": f"v{id_}", "height": HEIGHT, "width": WIDTH},
                **{name: values[id_] for name, values in lists.items()},
                "annotated_image_paths": [f"frame{frame:04d}.jpg" for frame in range(LENGTH)],
                "track_category_ids": {str(n): track["category"] for n, track in enumerate(tracks, 1)},
                "segmentations": frames,
            }
        )
    results = json.loads((tmp_path / "out/burst.json").read_text())
    theirs = by_trackeval(
        BURST(folders(tmp_path, {"split": "val", "sequences": sequences}, results)), ["HOTA", "TrackMAP"]
    )
    classes = {name: value for name, value in theirs.items() if not name.startswith("cls_comb")}
    assert "armchair" in DISTRACTORS
    assert "armchair" not in classes
    splits = {"": set(classes), "-common": set(classes) & COMMON, "-uncommon": set(classes) - COMMON}
    for split, chosen in splits.items():
        assert chosen or f"HOTA{split}" not in ours
        for figure, metric in (("HOTA", "HOTA"), ("DetA", "HOTA"), ("AssA", "HOTA"), ("AP", "TrackMAP")):
            field = "AP_all" if figure == "AP" else figure
            found_by_them = [classes[n][metric][field].mean() for n in chosen]
            assert not chosen or ours[figure + split] == pytest.approx(np.mean(found_by_them))
    assert 0 < ours["HOTA"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_hota_mota_and_idf1_are_those_of_trackeval_from_the_written_files(tmp_path: Path, seed: int, capsys) -> None:
    from trackeval.datasets import MotChallenge2DBox

    true, found = (
        {id_: [{**one, "category": 36} for one in some] for id_, some in side.items()} for side in random_videos(seed)
    )
    ours = judged(MotEvaluator(write(tmp_path, true), iou_types=("bbox",)), said(found), tmp_path / "trackers/us")
    for id_, tracks in true.items():
        rows = [
            f"{frame + 1},{number},{','.join(map(str, track['boxes'][frame]))},1,1,1\n"
            for number, track in enumerate(tracks, 1)
            for frame in range(LENGTH)
            if track["boxes"][frame]
        ]
        place = tmp_path / f"truth/v{id_}/gt"
        place.mkdir(parents=True)
        (place / "gt.txt").write_text("".join(rows))
    settings = {
        "GT_FOLDER": str(tmp_path / "truth"),
        "TRACKERS_FOLDER": str(tmp_path / "trackers"),
        "PRINT_CONFIG": False,
    }
    settings |= {"SKIP_SPLIT_FOL": True, "TRACKER_SUB_FOLDER": "mot", "SEQ_INFO": {f"v{id_}": LENGTH for id_ in true}}
    theirs = by_trackeval(MotChallenge2DBox(settings), ["HOTA", "CLEAR", "Identity"])["pedestrian"]
    for figure, metric in (
        ("HOTA", "HOTA"),
        ("DetA", "HOTA"),
        ("AssA", "HOTA"),
        ("MOTA", "CLEAR"),
        ("IDF1", "Identity"),
    ):
        assert ours[figure] == pytest.approx(np.mean(theirs[metric][figure])), figure
    assert ours["IDSW"] == theirs["CLEAR"]["IDSW"]
    assert 0 < ours["HOTA"] < 1


TETA = {
    0: (0.4511790631630338, 0.5138757357107583, 0.3802509337428230, 0.4594105200355201),
    1: (0.3836303536511301, 0.5183896761736237, 0.2668223791448788, 0.3656790056348880),
    2: (0.4770500516749770, 0.5830585799910744, 0.5104737905995085, 0.3376177844343479),
}
"""TETA, LocA, AssocA and ClsA of the random videos by the authors' toolkit (SysCV/tet of November 2026)."""


@pytest.mark.parametrize("seed", TETA)
def test_teta_is_that_of_its_authors_toolkit(tmp_path: Path, seed: int) -> None:
    true, found = random_videos(seed)
    ours = judged(TaoEvaluator(write(tmp_path, true)), said(found), tmp_path / "out")
    assert "AP" not in ours, "the file does not say what was searched for"
    assert [ours[name] for name in ("TETA", "LocA", "AssocA", "ClsA")] == pytest.approx(TETA[seed], abs=1e-12)


def still(category: int, *boxes: tuple[float, ...] | None, score: float = 0.9, **more: Any) -> dict[str, Any]:
    """A track that stays where it is, or is somewhere else in some frames."""
    return {"category": category, "score": score, "boxes": list(boxes * LENGTH if len(boxes) == 1 else boxes), **more}


A, B = (5.0, 5.0, 20.0, 20.0), (50.0, 30.0, 20.0, 20.0)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param([still(2, A), still(36, B)], (1.0, 1.0, 1.0), id="all"),
        pytest.param([still(2, A), still(2, B)], (1.0, 1.0, 0.25), id="one thing has the other's name"),
        pytest.param([still(2, A), still(36, B), still(4, (5.0, 30.0, 9.0, 9.0))], (1.0, 1.0, 1.0), id="unannotated"),
        pytest.param([still(2, A)], (0.5, 0.5, 0.5), id="one is missed"),
        pytest.param([], (0.0, 0.0, 0.0), id="nothing"),
    ],
)
def test_teta_by_hand(tmp_path: Path, found: list[dict[str, Any]], wanted: tuple[float, ...]) -> None:
    records = write(tmp_path, {1: [still(2, A), still(36, B)]})
    ours = judged(TaoEvaluator(records), said({1: found}), tmp_path / "out")
    assert tuple(ours[name] for name in ("LocA", "AssocA", "ClsA")) == pytest.approx(wanted)


def test_what_lies_in_a_crowd_costs_nothing(tmp_path: Path) -> None:
    crowd, within = (45.0, 20.0, 40.0, 35.0), still(2, B)
    true = [still(2, A), still(2, crowd, crowd=1)]
    for overlap in ("bbox", "segm"):
        records = write(tmp_path / overlap, {1: true})
        for found in ([still(2, A)], [still(2, A), within]):
            ours = judged(MotEvaluator(records, iou_types=(overlap,)), said({1: found}), tmp_path / "out")
            assert (ours["HOTA"], ours["MOTA"], ours["IDF1"]) == pytest.approx((1.0, 1.0, 1.0))
        ours = judged(
            MotEvaluator(records, iou_types=(overlap,)),
            said({1: [still(2, A), still(2, (1.0, 40.0, 9.0, 9.0))]}),
            tmp_path / "out",
        )
        assert ours["MOTA"] == pytest.approx(0.0)


def test_bdd100k_gets_corners_and_names(tmp_path: Path) -> None:
    records = write(tmp_path, {1: [still(2, A)]})
    judged(
        MotEvaluator(records, iou_types=("bbox",)), said({1: [still(2, A), still(4, B, score=0.1)]}), tmp_path / "out"
    )
    frames = json.loads((tmp_path / "out/scalabel.json").read_text())
    assert [(one["videoName"], one["frameIndex"]) for one in frames] == [("v1", frame) for frame in range(LENGTH)]
    [label] = frames[0]["labels"]  # the other is too unsure
    assert (label["id"], label["category"]) == ("1", "aerosol_can")
    assert label["box2d"] == {"x1": 5.0, "y1": 5.0, "x2": 24.0, "y2": 24.0}


@pytest.mark.parametrize(
    ("frames", "names"), [("{}/img1", ["1", "2"]), ("{}/SEQ/img1", ["SEQ-1", "SEQ-2"])], ids=["their own", "one name"]
)
def test_each_video_has_its_file(tmp_path: Path, frames: str, names: list[str]) -> None:
    videos = {1: [still(2, A)], 2: [still(2, B)]}
    evaluator = MotEvaluator(write(tmp_path, videos, frames), iou_types=("bbox",))
    judged(evaluator, said(videos), tmp_path / "out")
    files = sorted((tmp_path / "out/mot").iterdir())
    assert [path.stem for path in files] == names
    assert [path.read_text().split(",")[2:4] for path in files] == [["5.00", "5.00"], ["50.00", "30.00"]]
    said_of = {one["videoName"] for one in json.loads((tmp_path / "out/scalabel.json").read_text())}
    assert said_of == set(names)


def test_burst_needs_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="masks"):
        BurstEvaluator(write(tmp_path, {1: [still(2, A)]}), iou_types=("bbox",))


def test_without_the_toolkit_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="TrackEval") as refused:
        require_toolkit("here")
    assert "mmcore-trainer[video]" in str(refused.value.do)
