"""What processes of their own are told: everything else they read from the run folder."""

from pathlib import Path

import pytest
from mmcore.runs import run
from mmcore.runs.resume import Changes
from mmcore.runs.settings import Request, settle, write_config
from mmcore.train import launch


def test_a_resumed_run_on_several_processes_keeps_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, settings, _ = settle(Request(plugin="glee", stage="2", variant="tiny", data=tmp_path))
    write_config(settings, tmp_path / "run")
    told: list[object] = []
    monkeypatch.setattr(launch, "launch", lambda arguments, **how: told.append((arguments, how)))
    run.resume_run(tmp_path / "run", Changes(max_steps=6), nproc=2)
    arguments = ["train", "--resume", str(tmp_path / "run"), "--max-steps", "6"]
    assert told == [(arguments, {"nproc": 2, "hostfile": None})]
