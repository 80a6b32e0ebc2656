"""Experiment trackers: what they are told, that a resumed run goes on, and that they never stop a run."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from mmcore.errors import UsageError
from mmcore.train.track import TRACKERS, Tracker, check_installed


class Fake(ModuleType):
    """Remembers its calls; raises in the one that is named."""

    def __init__(self, broken: str = "") -> None:
        super().__init__("fake")
        self.calls: list[tuple[str, dict]] = []
        self.broken = broken

    def init(self, **values) -> None:
        self._note("init", values)

    def log(self, values, *, step) -> None:
        self._note("log", {**values, "step": step})

    def finish(self) -> None:
        self._note("finish", {})

    def _note(self, name: str, values: dict) -> None:
        self.calls.append((name, values))
        if name == self.broken:
            raise OSError("no network")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_resumed_run_goes_on_under_its_id(name: str, tmp_path: Path, monkeypatch) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, name, fake)
    for start in range(2):
        tracker = Tracker(name, tmp_path, {"seed": 3}, pytest.fail)
        tracker.log({"loss": 0.5}, 10 + start)
        tracker.close()
    assert [call for call, _ in fake.calls] == ["init", "log", "finish"] * 2
    first, second = (values for call, values in fake.calls if call == "init")
    assert first == second
    assert first["config"] == {"seed": 3}
    assert first["resume"] == "allow"
    assert [values for call, values in fake.calls if call == "log"] == [
        {"loss": 0.5, "step": 10}, {"loss": 0.5, "step": 11},
    ]  # fmt: skip


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_left(broken: str, tmp_path: Path, monkeypatch) -> None:
    fake, said = Fake(broken), []
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = Tracker("wandb", tmp_path, {}, said.append)
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert said == ["wandb does not track this run any more: OSError: no network"]
    assert [call for call, _ in fake.calls].count(broken) == 1


def test_two_runs_of_one_name_are_two_runs(tmp_path: Path, monkeypatch) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    for place in ("a", "b"):
        (tmp_path / place / "run").mkdir(parents=True)
        Tracker("trackio", tmp_path / place / "run", {}, pytest.fail)
    first, second = (values["name"] for _, values in fake.calls)
    assert first != second


def test_a_run_tells_its_figures_and_never_waits_for_the_tracker(tmp_path: Path, toy, monkeypatch) -> None:
    fake, said = Fake(), []
    monkeypatch.setitem(sys.modules, "trackio", fake)

    def open_tracker(say) -> Tracker:
        return Tracker("trackio", tmp_path, {}, lambda text: (said.append(text), say(text)))

    toy.train(toy.toy_setup(tmp_path, toy.toy_stage(), open_tracker=open_tracker))
    assert [call for call, _ in fake.calls][:2] == ["init", "log"]
    assert fake.calls[-1][0] == "finish"
    steps = {values["step"]: values for call, values in fake.calls if call == "log"}
    assert steps[12]["total"] > 0
    assert not said
    fake.broken = "log"
    (tmp_path / "again").mkdir()
    toy.train(toy.toy_setup(tmp_path / "again", toy.toy_stage(), open_tracker=open_tracker))
    assert len(said) == 1
    assert "no network" in (tmp_path / "again" / "log.txt").read_text()


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("mmcore.train.track.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="swanlab is not installed"):
        check_installed("swanlab")
