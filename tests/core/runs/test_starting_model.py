"""The model of a new run: what files give is read into a skeleton, what none gives is drawn from the seed."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmcore import AdamW, Constant, Data, Init, Model, Source, Stage
from mmcore.runs import initialise as initialising
from mmcore.weights.fill import Keeping, fill
from mmcore.weights.maps import LoadReport
from torch import nn

PUBLISHED = {
    "tower.weight": torch.full((4, 4), 0.5, dtype=torch.bfloat16),
    "tower.bias": torch.zeros(4, dtype=torch.bfloat16),
}


class Parts(Model):
    """A tower that a file fills, and a head that is new; `how` says what its constructor does besides."""

    def __init__(self, how: str = "apart") -> None:
        super().__init__()
        self.tower = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("places", torch.arange(4.0), persistent=False)
        if how == "computed":  # the head's bias follows from the tower
            with torch.no_grad():
                self.head.bias.copy_(self.tower.weight.mean(1)[:2])
        if how == "copied":  # past every registration
            self.copy = copy.deepcopy(self.head)

    def initialise(self, path: Path) -> LoadReport:
        del path
        fill(self, PUBLISHED)
        return LoadReport(filled=list(PUBLISHED), new=["head.weight", "head.bias"])


def settings(start: Path | None, **changes: Any) -> Any:
    stage = Stage(
        number=1,
        name="one",
        title="",
        origin="",
        steps=1,
        global_batch=1,
        micro_batch=1,
        data=Data(sources={"a": Source(weight=1.0, format="any")}),
        optim=AdamW(lr=1.0),
        schedule=Constant(),
        init=Init(optional=True),
        frozen=("tower",),
    ).replace(**changes)
    return SimpleNamespace(stage=stage, init=(str(start),) if start else (), data=".", seed=3)


@pytest.fixture(params=["apart", "computed", "copied"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Models of one kind, built from the run's seed as `build_model` does."""

    def build(_: Any, settings: Any) -> Parts:
        torch.manual_seed(settings.seed)
        return Parts(request.param)

    monkeypatch.setattr(initialising, "build_model", build)
    monkeypatch.setattr(initialising, "attach", lambda *_: None)
    return request.param


def test_without_files_the_model_is_what_its_constructor_makes(how: str) -> None:
    torch.manual_seed(3)
    made = Parts(how).state_dict()
    model, record = initialising.starting_model(None, settings(None))  # type: ignore[arg-type]
    assert record == []
    assert all(torch.equal(value, made[name]) for name, value in model.state_dict().items())


def test_files_fill_their_part_and_the_seed_the_rest(how: str, tmp_path: Path) -> None:
    start = tmp_path / "weights.bin"
    start.touch()
    states = []
    for _ in range(2):
        model, (entry,) = initialising.starting_model(None, settings(start))  # type: ignore[arg-type]
        states.append(model.state_dict())
        assert entry["source"] == str(start)
        assert not any(parameter.is_meta for parameter in model.parameters())
        assert torch.equal(model.get_buffer("places"), torch.arange(4.0))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert torch.equal(states[0]["tower.weight"], PUBLISHED["tower.weight"].float())
    assert states[0]["head.weight"].std() > 0


def test_the_frozen_part_of_a_file_keeps_its_precision_and_a_trained_one_does_not(how: str, tmp_path: Path) -> None:
    start = tmp_path / "weights.bin"
    start.touch()
    for frozen, dtype in ((("tower",), torch.bfloat16), ((), torch.float32)):
        run = settings(start, frozen=frozen)
        model, _ = initialising.starting_model(None, run, None, Keeping(torch.bfloat16))  # type: ignore[arg-type]
        assert model.get_parameter("tower.weight").dtype == dtype
        assert model.get_parameter("head.weight").dtype == torch.float32
