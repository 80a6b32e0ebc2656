"""Clips: which frames are drawn, what they keep of things, batches of several, and prompts of first frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.base.distributed import Place
from mmcore.contract.protocols import DataContext, Datasets
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Draw, Prediction
from mmcore.data.formats.registry import Formats
from mmcore.runs.own import with_own
from mmcore.runs.pictures import Strip
from mmcore_glee import family
from mmcore_glee.data import build
from mmcore_glee.data.clip_collate import ClipCollate
from mmcore_glee.data.clips import ClipSource
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.recipes import stages
from PIL import Image

FORMATS = Formats.of()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, DataContext]:
    """The sample of YouTube-VIS as own data."""
    root = tmp_path_factory.mktemp("clips")
    written = FORMATS["YouTube-VIS"].sample(root)  # type: ignore[misc]
    (root / "own.yaml").write_text(f"name: mine\ntrain: {{annotations: {written.annotations}, images: frames}}\n")
    finetune = next(stage for stage in stages("tiny") if stage.name == "finetune")
    stage, _ = with_own(finetune, root / "own.yaml", FORMATS, family().learns, root / "cache")
    return stage, DataContext(root, root / "cache", "tiny", 0)


@pytest.fixture(scope="module")
def data(own: tuple[Stage, DataContext]) -> Datasets:
    return build(own[0], "train", own[1])


@pytest.fixture
def source(data: Datasets) -> ClipSource:
    found = data.sources["mine"]
    assert isinstance(found, ClipSource)
    return found


def test_frames_are_near_one_another_in_order_and_never_missing(source: ClipSource) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 30):
        for _ in range(50):
            numbers = source.draw_frames(length, rng)
            assert len(numbers) == source.num_frames
            assert numbers == sorted(numbers)
            assert 0 <= numbers[0] <= numbers[-1] < length
            assert numbers[-1] - numbers[0] <= 2 * source.frame_range
            assert length == 1 or len(set(numbers)) > 1


def test_a_draw_decides_its_clip_and_frames_keep_identities(source: ClipSource) -> None:
    first, again = source.sample(Draw("mine", 0, 4)), source.sample(Draw("mine", 0, 4))
    assert torch.equal(first.frames, again.frames)
    assert first.frame_numbers == again.frame_numbers
    known = {track.id for track in source.records[0].objects}
    assert set(first.track_ids.tolist()) <= known
    for number in range(len(first)):
        frame = first.frame(number)
        assert len(set(frame.track_ids.tolist())) == len(frame.track_ids)  # a thing is in a frame once
        assert frame.masks.flatten(1).any(1).all()
        assert frame.image.shape[1:] == frame.masks.shape[1:]


def test_a_batch_of_clips_counts_what_it_divides_by(data: Datasets, source: ClipSource) -> None:
    samples = [source.sample(Draw("mine", position, position)) for position in (0, 1)]
    batch = data.collate["mine"](samples, 0)
    assert batch.num_frames == (2, 2)
    assert len(batch.images) == len(batch.num_objects) == len(batch.frame_numbers) == 4
    assert batch.normalisers["tracked_objects"] == batch.num_objects[1] + batch.num_objects[3]
    assert len(batch.track_ids) == len(batch.labels) == len(batch.masks)


@pytest.mark.parametrize(("task", "share", "prompted"), [("ytvis19", 1.0, 40), ("ytvis19", 0.0, 0), ("lvvis", 1.0, 0)])
def test_a_prompted_clip_keeps_one_thing_of_its_first_frame(
    source: ClipSource, task: str, share: float, prompted: int
) -> None:
    collate = ClipCollate(TASKS[task], tuple(f"name {i}" for i in range(40)), prompt_share=share)
    clip = source.sample(Draw("mine", 0, 1))
    found = 0
    for seed in range(40):
        batch = collate([clip], seed)
        if batch.prompt_masks is None:
            continue
        found += 1
        assert len(set(batch.track_ids.tolist())) == 1
        assert batch.prompt_masks.shape[0] == 1
        assert torch.equal(batch.prompt_masks[0], batch.masks[0])
    assert found == prompted


def test_own_clips_are_prompted_as_seldom_as_own_images(data: Datasets, source: ClipSource) -> None:
    clip = source.sample(Draw("mine", 0, 1))
    prompted = sum(data.collate["mine"]([clip], seed).prompt_masks is not None for seed in range(200))
    assert 20 < prompted < 60


def test_a_model_of_own_clips_is_asked_about_their_names(own: tuple[Stage, DataContext], source: ClipSource) -> None:
    assert own[0].class_names == tuple(source.records.index.meta["categories"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_source_may_say_how_often_it_is_prompted(
    share: float, own: tuple[Stage, DataContext], source: ClipSource
) -> None:
    stage, context = own
    asked = stage.data.sources["mine"].replace(options={"prompt_share": share})
    data = build(stage.replace(data=stage.data.replace(sources={"mine": asked})), "train", context)
    clip = source.sample(Draw("mine", 0, 1))
    prompted = {data.collate["mine"]([clip], seed).prompt_masks is not None for seed in range(8)}
    assert prompted == {share == 1.0}


def test_a_video_is_shown_as_some_frames_with_one_number_a_thing(source: ClipSource, tmp_path: Path) -> None:
    shown = source.shown(0)
    record = source.records[0]
    numbers = [frame.truth.frame for frame in shown.frames]  # type: ignore[union-attr]
    assert (numbers[0], numbers[-1]) == (0, len(record.frames) - 1)
    for frame in shown.frames:
        truth = frame.truth
        assert truth is not None
        assert truth.frame is not None
        seen = [n for n, track in enumerate(record.objects) if track.boxes_xywh[truth.frame] is not None]
        assert truth.track_ids is not None
        assert truth.track_ids.tolist() == seen
        assert truth.masks is not None
    strip = Strip(total=1)
    frames = [
        Prediction(record.id, (record.height, record.width), boxes_xyxy=torch.tensor([[4.0, 4, 40, 40]]),
                   scores=torch.tensor([0.2]), labels=torch.tensor([0]), track_ids=torch.tensor([3]), frame=number)
        for number in range(len(record.frames))
    ]  # fmt: skip
    batch = ClipCollate(source.task, ("kite",), training=False)([source.present(record, Draw("mine", 0, 0))], 0)
    strip(source, batch, frames)
    path = strip.save(tmp_path / "strip.jpg", "step 1", Place(0, 1))
    assert path is not None
    assert np.asarray(Image.open(path)).std() > 20
