"""Kill a run of every installed family again and again: what it becomes equals the uninterrupted run, byte for byte.

`MMCORE_KILLS` says how many kills each family gets (3 by default, a release takes 50), `MMCORE_KILL_SEED` when they
come. A run that got to its end is compared, and another one is started for the kills that are left.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mmcore import plugins
from mmcore.train import stored
from mmcore.train.metrics import read

FAMILIES = [plugin.name for plugin in plugins.inspect_all() if plugin.is_family and "tiny" in plugin.variants]
"""Every installed family that has a demo; a new one needs no word here."""
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
def test_a_run_killed_at_random_moments_equals_the_uninterrupted_one(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMCORE_CACHE": str(tmp_path / "cache")}
    whole = tmp_path / "whole"
    began = time.monotonic()
    finish(first_start(family, whole), environment)
    lasts = time.monotonic() - began
    chance, moments, runs = random.Random(SEED), [], 0
    while len(moments) < KILLS:
        killed = tmp_path / f"killed-{runs}"
        while len(moments) < KILLS and stored.steps_of(killed)[-1:] != [STEPS]:
            if kill_after(next_start(family, killed), chance.random() * lasts, environment):
                moments.append(stored.steps_of(killed)[-1:])
        finish(next_start(family, killed), environment)
        assert_same(whole, killed)
        shutil.rmtree(killed)
        runs += 1
    with capsys.disabled():
        after = sorted(Counter(step[0] if step else 0 for step in moments).items())
        print(f"\n{family}: {len(moments)} kills in {runs} runs, all equal; kills by newest checkpoint: {after}")


def next_start(family: str, run_dir: Path) -> list[str]:
    """Killed before it wrote its configuration, a run is started again; from then on it is resumed."""
    return resume(run_dir) if (run_dir / "config.yaml").exists() else first_start(family, run_dir)


def finish(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def kill_after(words: list[str], seconds: float, environment: dict[str, str]) -> bool:
    """Start a run and kill it, its data workers included; False when it had ended well before."""
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.wait(seconds) == 0
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def assert_same(whole: Path, killed: Path) -> None:
    """Records, and every byte of the last checkpoint by its hashes."""
    assert deterministic(killed) == deterministic(whole)
    manifests = [json.loads((stored.path_of(run, STEPS) / "manifest.json").read_text()) for run in (whole, killed)]
    assert manifests[0] == manifests[1]
    assert not list((killed / "checkpoints").glob(".step-*"))
