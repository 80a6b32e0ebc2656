"""Kill a run of every installed family again and again: what it becomes equals the uninterrupted run, byte for byte.

`MMCORE_KILLS` says how many kills each family gets (3 by default, a release takes 50), `MMCORE_KILL_SEED` when they
come. A run that got to its end is compared, and another one is started for the kills that are left.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmcore import plugins
from mmcore.train import stored
from mmcore.train.metrics import read

FAMILIES = [plugin.name for plugin in plugins.inspect_all() if plugin.is_family]
KILLS = int(os.environ.get("MMCORE_KILLS", "3"))
SEED = int(os.environ.get("MMCORE_KILL_SEED", "0"))
STEPS = 12
RECIPE = ["--set", "checkpoint_every=2", "--set", "eval_every=6", "--set", "global_batch=4", "--set", "micro_batch=2"]

pytestmark = pytest.mark.slow


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mmcore", "train", *map(str, arguments)]


def first_start(family: str, run_dir: Path) -> list[str]:
    stage = plugins.stages(plugins.manager(plugins.load(family), ()), plugins.load(family), "tiny")[0]
    return command(
        "--plugin", family, "--stage", stage.number, "--demo", "--device", "cpu", "--workers", 2, "--max-steps", STEPS,
        "--out", run_dir, *RECIPE,
    )  # fmt: skip


def resume(run_dir: Path) -> list[str]:
    return command("--resume", run_dir, "--workers", 2)


def deterministic(run_dir: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "timing"} for record in read(run_dir / "metrics.jsonl")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_killed_at_random_moments_equals_the_uninterrupted_one(family: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMCORE_CACHE": str(tmp_path / "cache")}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    subprocess.run(first_start(family, whole), env=environment, check=True, capture_output=True)
    lasts = time.monotonic() - began
    chance, left, number = random.Random(SEED), KILLS, 0
    while left > 0:
        killed = tmp_path / f"killed-{number}"
        number += 1
        while left > 0 and stored.steps_of(killed)[-1:] != [STEPS]:
            # Without a checkpoint a killed start leaves a folder that a resume starts again from its configuration.
            again = (killed / "config.yaml").exists()
            kill_after(resume(killed) if again else first_start(family, killed), chance.random() * lasts, environment)
            left -= 1
        subprocess.run(resume(killed), env=environment, check=True, capture_output=True)
        assert_same(whole, killed)


def kill_after(words: list[str], seconds: float, environment: dict[str, str]) -> None:
    """Start a run and kill it, its data workers included."""
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_same(whole: Path, killed: Path) -> None:
    """Records, and every byte of the last checkpoint by its hashes."""
    assert deterministic(killed) == deterministic(whole)
    manifests = [json.loads((stored.path_of(run, STEPS) / "manifest.json").read_text()) for run in (whole, killed)]
    assert manifests[0] == manifests[1]
    assert not list((killed / "checkpoints").glob(".step-*"))
