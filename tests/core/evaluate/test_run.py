import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmcore.base.distributed import Place
from mmcore.base.signals import StopSignals
from mmcore.contract.model import Model
from mmcore.contract.protocols import Datasets, DataSource, Evaluator
from mmcore.contract.recipe import AdamW, Constant, Data, Stage, Validation
from mmcore.contract.values import Batch, Draw, Prediction, Sample
from mmcore.errors import DataError, Stopped, UsageError
from mmcore.evaluate.run import evaluate, shares
from torch import nn

STAGE = Stage(
    number=1,
    name="one",
    title="One",
    origin="test",
    steps=1,
    global_batch=1,
    micro_batch=1,
    data=Data(sources={}),
    optim=AdamW(lr=1e-3),
    schedule=Constant(),
    validation={"seven": Validation(metrics=("mean",))},
)


class Seven(DataSource):
    """Seven records; sample i is a black image whose id is i."""

    name = "seven"
    fingerprint = "x"

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 7

    def aspect_groups(self) -> None:
        return None

    def sample(self, draw: Draw) -> Sample | None:
        if draw.position == self.broken:
            raise DataError("the picture is cut off", where=f"{draw.position}.jpg")
        image = torch.zeros(3, 4, 4, dtype=torch.uint8)
        return Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), None, draw, draw.position, (4, 4))


def collate(samples: Sequence[Sample], seed: int) -> Batch:
    return Batch("seven", tuple(sample.draw for sample in samples), {"samples": len(samples)})


class Sum(Evaluator):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        self.seen += [int(prediction.image_id) for prediction in predictions]

    def state(self) -> list[Any]:
        return [{"image_id": i} for i in self.seen]

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        unique = {item["image_id"] for item in items}
        return {"images": float(len(unique)), "mean": sum(unique) / len(unique)}


class Echo(Model):
    """Predicts nothing, draws random numbers, and checks that it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(2).eval()

    def predict(self, batch: Batch) -> list[Prediction]:
        assert not self.training
        assert not self.dropout.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        return [Prediction(draw.position, (4, 4)) for draw in batch.draws]


def datasets(source: Seven | None = None) -> Datasets:
    return Datasets({"seven": source or Seven()}, {"seven": collate}, {"seven": Sum})


def run(model: nn.Module | None = None, data: Datasets | None = None, **options: Any) -> dict[str, float]:
    return evaluate(model or Echo(), data or datasets(), STAGE, "seven", progress=False, **options)


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"batch_size": 2, "workers": 1}])
def test_every_image_is_predicted_once(options: dict[str, int]) -> None:
    assert run(**options) == {"images": 7.0, "mean": 3.0}


@pytest.mark.parametrize(("asked", "sizes"), [(None, [3, 3, 1]), (2, [2, 2, 2, 1])])
def test_the_recipe_says_how_many_go_together_unless_the_caller_does(asked: int | None, sizes: list[int]) -> None:
    stage = STAGE.replace(validation={"seven": STAGE.validation["seven"].replace(batch_size=3)})
    model, seen = Echo(), []
    model.predict = lambda batch: seen.append(len(batch)) or Echo.predict(model, batch)  # type: ignore[method-assign]
    evaluate(model, datasets(), stage, "seven", progress=False, batch_size=asked)
    assert seen == sizes


def test_the_recipes_metrics_come_first() -> None:
    assert list(run()) == ["mean", "images"]


def test_modes_and_random_state_are_what_they_were() -> None:
    model = Echo().train()
    model.frozen.eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(model)
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training


@pytest.mark.parametrize(("total", "batch", "world"), [(7, 2, 3), (1, 4, 2), (12, 3, 4), (5, 1, 8)])
def test_processes_share_all_images_in_equally_many_batches(total: int, batch: int, world: int) -> None:
    parts = [shares(total, batch, Place(rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert {position for part in parts for one in part for position in one} == set(range(total))


def test_a_limit_takes_the_first_images() -> None:
    assert run(limit=3) == {"mean": 1.0, "images": 3.0}


def test_the_folder_gets_the_metrics(tmp_path: Path) -> None:
    metrics = run(folder=tmp_path / "eval")
    record = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert record["metrics"] == metrics
    assert (record["images"], record["frames"]) == (7, 0)


@pytest.mark.parametrize(
    ("record_ids", "records"),
    [([None] * 7, 4), ([0, 1, 2, 3, 4, 5, 6], 7), ([0, 1, 0, 1, 0, 1, 1], 7), ([0, 0, 0, 1, 0, 1, 0], 6)],
    ids=["none", "of the set", "of an image", "repeated"],
)
def test_an_image_may_be_asked_about_several_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_ids: list[int | None], records: int
) -> None:
    items = [{"image_id": number // 2, "record_id": id_} for number, id_ in enumerate(record_ids)]
    monkeypatch.setattr(Sum, "state", lambda self: items)
    run(folder=tmp_path / "eval")
    record = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert (record["images"], record["records"]) == (4, records)


def test_frames_of_videos_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sum, "state", lambda self: [{"image_id": seen // 3, "frame": seen % 3} for seen in self.seen])
    run(folder=tmp_path / "eval")
    record = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert (record["images"], record["frames"]) == (3, 7)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_evaluation_with_its_own_message(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        run(data=datasets(Seven(broken=5)), workers=workers)
    assert caught.value.what == "the picture is cut off"
    assert caught.value.where == "5.jpg"


def test_a_signal_to_a_training_run_ends_its_evaluation_at_the_next_batch() -> None:
    model, seen = Echo(), []

    def predict(batch: Batch) -> list[Prediction]:
        seen.append(batch)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return Echo.predict(model, batch)

    model.predict = predict  # type: ignore[method-assign]
    with StopSignals(), pytest.raises(Stopped) as caught:
        run(model)
    assert caught.value.signal_number == signal.SIGTERM
    assert len(seen) == 2
    assert run() == {"images": 7.0, "mean": 3.0}  # nothing of it is left


def test_an_unknown_validation_set_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'seven'"):
        evaluate(Echo(), datasets(), STAGE, "sevne", progress=False)


def test_what_one_process_cannot_read_stops_all_of_them(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(evaluate_together, (tmp_path,), nprocs=2)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1] == ["the picture is cut off", "3.jpg"]


def evaluate_together(rank: int, folder: Path) -> None:
    """One of two processes; record 3 is read by the second."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    try:
        with pytest.raises(DataError) as caught:
            run(data=datasets(Seven(broken=3)), distributed=Place(rank, 2))
        (folder / f"{rank}.json").write_text(json.dumps([caught.value.what, caught.value.where]))
    finally:
        dist.destroy_process_group()


def test_records_that_cannot_be_read_are_left_out_counted_and_told_where_the_policy_says_so(capsys) -> None:
    taken: list = []
    assert run(data=datasets(Seven(broken=2)), policy="skip", take_bad=taken.extend)["images"] == 6.0
    assert [(one.source, one.position, one.what) for one in taken] == [("seven", 2, "the picture is cut off")]
    told = capsys.readouterr().err
    assert "1 of 7 records cannot be read" in told
    assert "2.jpg" in told
