"""The benchmark's own tools: what they measure is there, and every variant computes the same losses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import common

    return common


def test_a_large_allocation_shows_in_the_memory_peak_after_it_is_gone(common):
    peak = common.memory_peak(lambda: torch.ones(64 * common.MIB // 4).sum())
    assert 60 < peak / common.MIB < 120


def test_the_ratio_is_that_of_rounds_measured_together(common):
    found = common.ratio([4.0, 8.0, 6.0, 40.0], [2.0, 4.0, 3.0, 20.0])
    assert found == {"median": 2.0, "low": 2.0, "high": 2.0}
    spread = common.ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert spread["low"] < spread["median"] == 3.0 < spread["high"]


def test_every_variant_runs_once_per_round(common):
    calls = []
    times = common.in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, warmup=0)
    assert [len(times[name]) for name in "ab"] == [3, 3]
    assert [sorted(calls[i : i + 2]) for i in (0, 2, 4)] == [["a", "b"]] * 3


def test_a_failing_measurement_says_why(common, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such variant')")
    with pytest.raises(RuntimeError, match="no such variant"):
        common.in_own_process(str(script), [])


@pytest.mark.slow
def test_all_variants_of_the_training_step_give_the_same_losses():
    command = [sys.executable, str(BENCH / "glee_step.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((BENCH / "results" / "glee_step_tiny.json").read_text())
    assert max(figures["largest_loss_difference"] for figures in result["variants"].values()) < 1e-4
