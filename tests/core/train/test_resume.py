"""A run that was interrupted is, byte for byte, the run that was not."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from mmcore.errors import CheckpointError
from mmcore.train import stored
from mmcore.train.metrics import read

STAGE = {"steps": 40, "checkpoint_every": 3, "keep_last": 3, "keep_every": 10, "eval_every": 5}


def deterministic(run_dir: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "timing"} for record in read(run_dir / "metrics.jsonl")]


def manifest(run_dir: Path, step: int) -> dict:
    path = stored.path_of(run_dir, step)
    assert stored.problem(path) is None
    return json.loads((path / "manifest.json").read_text())


def assert_same_run(a: Path, b: Path, step: int) -> None:
    assert manifest(a, step) == manifest(b, step)
    assert deterministic(a) == deterministic(b)


def is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob(".step-*"))


def kill_at_random_moments(server, run_dir: Path, kills: int, chance: random.Random, settings: dict) -> list[str]:
    """Kill and resume; what each kill hit."""
    hits = []
    while len(hits) < kills:
        (pid,) = server.start(run_dir, resume=True, **settings)
        deadline = time.monotonic() + 20
        if chance.random() < 0.5:
            while not is_saving(run_dir) and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.05)
        else:
            time.sleep(chance.random() * 0.8)
        hits.append("save" if is_saving(run_dir) else "other")
        with contextlib.suppress(ProcessLookupError):  # it had just ended
            os.kill(pid, signal.SIGKILL)
        (code,) = server.finish()
        assert code in (-signal.SIGKILL, 0)
        if code == 0:
            break
    return hits


def test_a_run_killed_at_ten_random_moments_equals_the_uninterrupted_one(server, tmp_path: Path) -> None:
    settings = {"stage": STAGE, "workers": 2, "evaluating": True}
    assert server.train(tmp_path / "whole", **settings) == [0]
    slow = {**settings, "fsync_pause": 0.01, "step_pause": 0.1}  # also a quick machine must not get to the end
    hits = kill_at_random_moments(server, tmp_path / "killed", 10, random.Random(5), slow)
    assert len(hits) == 10, "the run ended before it was killed ten times"
    assert "save" in hits
    assert server.train(tmp_path / "killed", resume=True, **settings) == [0]
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 40)
    assert not is_saving(tmp_path / "killed")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGUSR1, 138),
     (signal.SIGUSR2, 140)],
)  # fmt: skip
def test_a_signal_saves_the_finished_step_and_exits_with_its_code(
    server, tmp_path: Path, number: int, code: int
) -> None:
    settings = {"stage": {"steps": 60}, "workers": 2, "step_pause": 0.02}
    run_dir = tmp_path / "run"
    (pid,) = server.start(run_dir, **settings)
    wait_for_step(run_dir, 6)
    os.kill(pid, number)
    assert server.finish() == [code]
    step = stored.steps_of(run_dir)[-1]
    assert 6 <= step < 60
    assert deterministic(run_dir)[-1]["step"] == step
    assert "Stopped" in Path(f"{run_dir}.0.txt").read_text()
    assert server.train(run_dir, resume=True, stage={"steps": 60}) == [0]
    assert server.train(tmp_path / "whole", stage={"steps": 60}) == [0]
    assert_same_run(tmp_path / "whole", run_dir, 60)


def test_a_second_signal_ends_at_once_and_leaves_the_previous_checkpoint(server, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (pid,) = server.start(run_dir, stage={"steps": 60, "checkpoint_every": 5}, fsync_pause=0.2)
    # In this order: once a checkpoint is there, what is being saved is the next one, and the run is far from its end.
    while not stored.steps_of(run_dir) or not is_saving(run_dir):
        time.sleep(0.01)
    before = stored.steps_of(run_dir)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    assert server.finish() == [143]
    assert stored.last_good(run_dir, print) in before


def wait_for_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = read(run_dir / "metrics.jsonl")
        if records and records[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError("the run does not start")


def test_a_finished_run_resumes_to_nothing(toy, tmp_path: Path) -> None:
    first = toy.run({"run_dir": str(tmp_path)})
    before = manifest(tmp_path, first.step)
    again = toy.run({"run_dir": str(tmp_path), "resume": True})
    assert again == first
    assert manifest(tmp_path, first.step) == before


def test_stopping_early_and_going_on_keeps_the_schedule(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path / "cut"), "stop_step": 5})
    toy.run({"run_dir": str(tmp_path / "cut"), "resume": True})
    toy.run({"run_dir": str(tmp_path / "whole")})
    assert manifest(tmp_path / "cut", 12) == manifest(tmp_path / "whole", 12)
    assert deterministic(tmp_path / "cut") == deterministic(tmp_path / "whole")


def test_the_number_of_data_workers_changes_nothing(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path / "none"), "workers": 0})
    toy.run({"run_dir": str(tmp_path / "two"), "workers": 2})
    assert_same_run(tmp_path / "none", tmp_path / "two", 12)


def test_a_folder_with_a_run_is_not_overwritten(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path)})
    with pytest.raises(CheckpointError, match="already holds a run") as caught:
        toy.run({"run_dir": str(tmp_path)})
    assert "--resume" in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused_by_name(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path), "stop_step": 2})
    setup = toy.toy_setup(tmp_path, resume=True)
    setup.model.box_head = torch.nn.Linear(toy.WIDTH, 4)
    with pytest.raises(CheckpointError, match=r"box_head\.(bias|weight)"):
        toy.train(setup)


def test_a_killed_run_does_not_stay_locked(server, tmp_path: Path) -> None:
    """Data workers outlive their parent by seconds; the lock must not."""
    (pid,) = server.start(tmp_path / "run", workers=2, step_pause=0.2)
    wait_for_step(tmp_path / "run", 1)
    os.kill(pid, signal.SIGKILL)
    server.finish()
    assert server.train(tmp_path / "run", workers=2, resume=True) == [0]
