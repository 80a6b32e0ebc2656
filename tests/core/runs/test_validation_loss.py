"""The loss of a validation set: a function of the weights alone, and nothing that training would notice."""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from mmcore import plugins
from mmcore.base import distributed
from mmcore.base.distributed import Place
from mmcore.base.signals import StopSignals
from mmcore.contract.protocols import Datasets, DataSource
from mmcore.contract.recipe import Stage, Validation
from mmcore.contract.values import Batch, Draw, Loss, Losses
from mmcore.errors import ShapeError, Stopped
from mmcore.runs.build import build_datasets, build_model, prepare_demo
from mmcore.runs.settings import Request, settle
from mmcore.runs.validation_loss import learnable_sets, validation_loss
from torch import nn

CPU, ALONE = torch.device("cpu"), Place()


@pytest.mark.parametrize("plugin", plugins.installed())
def test_the_loss_is_a_function_of_the_weights_and_changes_nothing(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path))
    found = plugins.load(plugin)
    stage = next(iter(plugins.stages(plugins.manager(found, ()), found, "tiny")))
    family, settings, _ = settle(Request(plugin=plugin, stage=stage.name, demo=True))
    prepare_demo(family, settings)
    names = list(build_datasets(family, settings, "val").evaluators) if settings.stage.validation else []
    learnable = learnable_sets(family, settings, names)
    if not learnable:
        pytest.skip(f"no validation set of {plugin} {stage.name} can be learned from")
    name, opened = next(iter(learnable.items()))
    model = build_model(family, settings).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random.seed(5), torch.manual_seed(5)
    drawn = torch.get_rng_state()
    first, why = validation_loss(model, opened, settings.stage, name, CPU, ALONE)
    assert why is None
    assert first is not None
    assert first > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.manual_seed(6)
    assert validation_loss(model, opened, settings.stage, name, CPU, ALONE)[0] == first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    assert validation_loss(model, opened, settings.stage, name, CPU, ALONE)[0] != first
    none = settings.replace(
        stage=settings.stage.replace(
            validation={key: entry.replace(loss_on=0) for key, entry in settings.stage.validation.items()}
        )
    )
    assert learnable_sets(family, none, names) == {}


class Counted(DataSource):
    """Five records of nothing, each counted when it is read."""

    def __init__(self, ends_at: int | None = None) -> None:
        self.read, self.ends_at = 0, ends_at

    def __len__(self) -> int:
        return 5

    @property
    def fingerprint(self) -> str:
        return "five"

    def sample(self, draw: Draw) -> Any:
        self.read += 1
        if self.read == self.ends_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw


class Ending(nn.Module):
    """A model during whose second batch the run is asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, batch: Batch) -> Losses:
        self.calls += 1
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return Losses(one=Loss(torch.ones(()), "samples"))


@pytest.mark.parametrize(("ends_at", "calls"), [(None, 2), (3, 0)], ids=["in the model", "while records are read"])
def test_a_signal_to_a_training_run_ends_the_loss_soon(ends_at: int | None, calls: int) -> None:
    source, model = Counted(ends_at), Ending()
    opened = Datasets(
        {"mine": source}, {"mine": lambda samples, number: Batch("mine", tuple(samples), {"samples": 1.0})}
    )
    entry = Validation(format="toy", annotations="a.json")
    stage = SimpleNamespace(validation={"mine": entry}, micro_batch=1, precision="fp32")
    with StopSignals(), pytest.raises(Stopped) as caught:
        validation_loss(model, opened, cast(Stage, stage), "mine", CPU, ALONE)
    assert (caught.value.signal_number, model.calls, source.read) == (signal.SIGTERM, calls, ends_at or 5)
    model = Ending()
    model.calls = 2
    assert validation_loss(model, opened, cast(Stage, stage), "mine", CPU, ALONE) == (
        1.0,
        None,
    )  # nothing is left of it


class Exchange:
    """`all_gather_json` of two processes, each a thread; one that asks less often than the other breaks it."""

    def __init__(self) -> None:
        self.barrier, self.told, self.rank = threading.Barrier(2, timeout=20), [None, None], threading.local()

    def __call__(self, value: Any) -> list[Any]:
        self.told[self.rank.number] = value
        self.barrier.wait()
        found = list(self.told)
        self.barrier.wait()
        return found


class Failing(nn.Module):
    """A model that cannot do one of its batches."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, batch: Batch) -> Losses:
        self.calls += 1
        if self.calls == self.at:
            raise ShapeError("a batch does not fit")
        return Losses(one=Loss(torch.ones(()), "samples"))


@pytest.mark.parametrize(("at", "calls"), [(1, [1, 1]), (2, [2, 2]), (3, [3, 3]), (None, [3, 3])])
def test_what_fails_on_one_process_is_known_on_all_at_once(
    monkeypatch: pytest.MonkeyPatch, at: int | None, calls: list[int]
) -> None:
    exchange, models = Exchange(), [Failing(at), Failing(None)]
    monkeypatch.setattr(distributed, "all_gather_json", exchange)
    stage = cast(Stage, SimpleNamespace(validation={"mine": Validation()}, micro_batch=1, precision="fp32"))
    opened = Datasets(
        {"mine": Counted()}, {"mine": lambda samples, number: Batch("mine", tuple(samples), {"samples": 1.0})}
    )

    def measured(rank: int) -> tuple[float | None, str | None]:
        exchange.rank.number = rank
        return validation_loss(models[rank], opened, stage, "mine", CPU, Place(rank, 2))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(measured, range(2))
    assert first == second
    assert first == ((1.0, None) if at is None else (None, first[1]))
    assert at is None or "a batch does not fit" in str(first[1])
    assert [model.calls for model in models] == calls
