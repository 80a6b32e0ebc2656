"""J and F of masks in videos: by hand, by TrackEval's own code, and the pictures that servers take."""

import json
import sys
import types
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
from mmcore.evaluate.region_boundary import boundary, outline, regions
from mmcore.evaluate.video_objects import VideoObjectsEvaluator, palette
from mmcore.geometry import masks
from PIL import Image


def region(true: np.ndarray, found: np.ndarray) -> float:
    return regions(true[None, None], found[None].astype(np.uint8)).item()


def square(x: int, y: int, side: int = 20, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.mark.parametrize(
    ("found", "j", "f"),
    [
        pytest.param(square(10, 10), 1.0, 1.0, id="the same"),
        pytest.param(square(20, 10), 200 / 600, None, id="half beside it"),
        pytest.param(square(11, 10), 380 / 420, 1.0, id="one pixel off is near"),
        pytest.param(square(50, 30), 0.0, 0.0, id="elsewhere"),
        pytest.param(np.zeros((60, 80), bool), 0.0, 0.0, id="nothing"),
    ],
)
def test_figures_by_hand(found: np.ndarray, j: float, f: float | None) -> None:
    assert region(square(10, 10), found) == pytest.approx(j)
    assert f is None or boundary(square(10, 10), found) == pytest.approx(f)


def test_half_of_a_boundary_by_hand() -> None:
    # Reach is 0.8 % of 100 px, one pixel. A bar 20 px high and its upper half: the outline is one pixel wide.
    true, half = square(10, 10, 20), square(10, 10, 20)
    half[20:] = False
    edge, other = outline(true), outline(half)
    assert (edge.sum(), other.sum()) == (80, 60)
    # Of the true outline: rows 9 to 19 both sides (22), the top between them (19), and those one below the half.
    near_true = sum(
        other[max(0, y - 1) : y + 2, x].any() or other[y, x - 1 : x + 2].any() for y, x in np.argwhere(edge)
    )
    near_half = sum(edge[max(0, y - 1) : y + 2, x].any() or edge[y, x - 1 : x + 2].any() for y, x in np.argwhere(other))
    recall, precision = near_true / 80, near_half / 60
    assert boundary(true, half) == pytest.approx(2 * recall * precision / (recall + precision))


def test_nothing_where_nothing_is_agrees() -> None:
    empty = np.zeros((60, 80), bool)
    assert (region(empty, empty), boundary(empty, empty)) == (1.0, 1.0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_figures_are_those_of_trackeval(monkeypatch: pytest.MonkeyPatch) -> None:
    j_and_f = pytest.importorskip("trackeval.metrics.j_and_f", reason="pip install trackeval")
    if "skimage.morphology" not in sys.modules:  # TrackEval wants only its disk, and does not require the package

        def disk(radius: float) -> np.ndarray:
            steps = np.arange(-radius, radius + 1)
            return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)

        module = types.ModuleType("skimage.morphology")
        module.disk = disk  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "skimage", types.ModuleType("skimage"))
        monkeypatch.setitem(sys.modules, "skimage.morphology", module)
    draw = np.random.default_rng(0)
    for height, width in ((120, 160), (480, 854), (33, 47)):
        pairs = [[draw.random((height, width)) for _ in range(2)] for _ in range(3)]
        coarse = [[np.kron(noise[: height // 8 + 1, : width // 8 + 1], np.ones((8, 8))) for noise in p] for p in pairs]
        true, found = ([one[i][:height, :width] > 0.6 for one in coarse] for i in (0, 1))
        rles = [[[masks.encode(mask.astype(np.uint8))] for mask in some] for some in (true, found)]
        theirs = j_and_f.JAndF._compute_f(rles[0], rles[1], 0, 0, 0.008)
        assert [boundary(*pair) for pair in zip(true, found, strict=True)] == pytest.approx(theirs.tolist())
        overlaps = j_and_f.JAndF._compute_j(rles[0], rles[1], 1, 1, 3)[0, 0]
        assert [region(*pair) for pair in zip(true, found, strict=True)] == pytest.approx(overlaps.tolist())


def test_all_tracks_of_a_video_at_once_are_each_alone() -> None:
    draw = np.random.default_rng(0)
    found, true = draw.integers(0, 4, (3, 20, 30)).astype(np.uint8), draw.random((5, 3, 20, 30)) > 0.7
    true[1, 0], found[2] = False, 0
    j = regions(true, found)
    assert j.shape == (5, 5, 3)
    for one, other, frame in np.ndindex(j.shape):
        mask = found[frame] == other + 1
        either = np.count_nonzero(true[one, frame] | mask)
        alone = np.count_nonzero(true[one, frame] & mask) / either if either else 1.0
        assert j[one, other, frame] == pytest.approx(alone)


def clips(folder: Path, *, expressions: bool = False) -> VideoRecords:
    drawn = [draw_clip(0, number, 3) for number in (1, 2)]
    kinds = sorted({thing.kind for clip in drawn for thing in clip.things})
    content = as_ytvis(drawn, [{"id": 10 + number, "name": kind} for number, kind in enumerate(kinds)])
    if expressions:  # two of the first video, one of the second, each for the first thing of its own
        one, other = content["videos"]
        content["videos"] = [
            {**one, "expressions": ["it"]}, {**one, "id": 7, "expressions": ["that"]}, {**other, "expressions": ["it"]}
        ]  # fmt: skip
        first = [next(a for a in content["annotations"] if a["video_id"] == id_) for id_ in (1, 2)]
        content["annotations"] = [*first, {**first[0], "id": 99, "video_id": 7}]
    (folder / "clips.json").write_text(json.dumps(content))
    parser = Videos(folder / "clips.json", expressions=expressions)
    return VideoRecords(open_index(parser, folder / "cache", workers=1), keep_empty=True)


def perfect(records: VideoRecords) -> list[Prediction]:
    said = []
    for record in records:
        for frame in range(len(record.frames)):
            seen = [i for i, track in enumerate(record.objects) if track.boxes_xywh[frame] is not None]
            said.append(
                Prediction(
                    image_id=record.id,
                    size=(record.height, record.width),
                    boxes_xyxy=torch.zeros(len(seen), 4),
                    scores=torch.tensor([0.9 - 0.1 * i for i in seen]),
                    labels=torch.zeros(len(seen), dtype=torch.int64),
                    masks=[record.objects[i].segmentations[frame] for i in seen],
                    track_ids=torch.tensor(seen),
                    frame=frame,
                )
            )
    return said


def judged(records: VideoRecords, said: list[Prediction]) -> dict[str, float]:
    evaluator = VideoObjectsEvaluator(records)
    evaluator.update(Batch("clips", (), {}), said)
    found = evaluator.summarise(evaluator.state())
    assert not found or set(found) == set(evaluator.metric_names)
    return found


@pytest.mark.parametrize("expressions", [False, True])
def test_the_truth_scores_one_and_nothing_scores_nothing(tmp_path: Path, expressions: bool) -> None:
    records = clips(tmp_path, expressions=expressions)
    names = VideoObjectsEvaluator(records).metric_names
    assert judged(records, perfect(records)) == dict.fromkeys(names, pytest.approx(1.0))
    blank = [
        replace(one, boxes_xyxy=None, scores=None, labels=None, masks=[], track_ids=torch.zeros(0, dtype=torch.int64))
        for one in perfect(records)
    ]
    assert judged(records, blank)["J"] < 0.2  # a thing that is hidden in a frame agrees with nothing


def test_a_thing_that_is_lost_half_way_scores_less(tmp_path: Path) -> None:
    records = clips(tmp_path)
    said = [one if one.frame else replace(one, track_ids=one.track_ids + 100) for one in perfect(records)]
    assert judged(records, said)["J&F"] < 0.8


@pytest.mark.parametrize("expressions", [False, True])
def test_pictures_lie_where_the_servers_look(tmp_path: Path, expressions: bool) -> None:
    records = clips(tmp_path, expressions=expressions)
    evaluator = VideoObjectsEvaluator(records)
    evaluator.update(Batch("clips", (), {}), perfect(records))
    evaluator.write(evaluator.state(), tmp_path / "out")
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    videos = ["00001/0", "00001/1", "00002/0"] if expressions else ["00001", "00002"]
    assert written == [f"Annotations/{video}/{frame:05d}.png" for video in videos for frame in range(3)]
    image = Image.open(tmp_path / "out" / written[0])
    assert image.mode == "P"
    first = records[0].objects[0].segmentations[0]
    shown = np.asarray(image)
    assert shown[masks.decode(first).astype(bool)].max() == 1
    assert palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="need masks"):
        VideoObjectsEvaluator(clips(tmp_path), iou_types=("bbox",))
