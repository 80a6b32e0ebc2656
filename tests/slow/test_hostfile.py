"""A run on two machines (two names of this one) through --hostfile and ZeRO-3 is the run of one process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STAGES = {"griffon": "pretrain", "glamm": "gcg"}
QUICK = ("--demo", "--device", "cpu", "--workers", "0", "--no-tensorboard", "--log-every", "1")
SETTINGS = ("validation={}", "best_metric=null", "global_batch=4", "micro_batch=2", "init.optional=true")


def command(family: str, run: Path, *more: object) -> list[str]:
    words = [sys.executable, "-m", "mmcore", "train", "--plugin", family, "--stage", STAGES[family], *QUICK]
    words += [f"--set={entry}" for entry in SETTINGS]
    return [*words, "--out", str(run), *map(str, more)]


def losses(run: Path) -> list[dict[str, float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["losses"] | {"total": record["total"]} for record in records if "losses" in record]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "hostfile-cache"  # one set of sample data
    for name, value in {"OMP_NUM_THREADS": "1", "MMCORE_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("family", STAGES)
def test_two_hosts_under_zero_3_have_the_losses_of_one_process(tmp_path: Path, two_hosts: Path, family: str) -> None:
    for name, more in {"one": (), "two": ("--hostfile", two_hosts, "--set", "zero=3")}.items():
        words = command(family, tmp_path / name, "--max-steps", 3, *more)
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_process_that_dies_ends_the_run_and_its_host_is_named(tmp_path: Path, two_hosts: Path) -> None:
    words = command("griffon", tmp_path / "run", "--hostfile", two_hosts, "--set", "zero=3")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.2)
    (rank1,) = trainers(tmp_path / "run", rank=1)
    os.kill(rank1, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(r"a process on 127\.0\.0\.1 was killed by SIGKILL; the run was ended on all machines", said)
    assert not trainers(tmp_path / "run", rank=0)


def trainers(run: Path, rank: int) -> list[int]:
    """Processes of a run that train: started by DeepSpeed with this rank."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(run).encode() in words and f"\0RANK={rank}\0".encode() in variables:
            found.append(int(folder.name))
    return found
