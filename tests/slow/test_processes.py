"""Real runs on one, two and four processes: what agrees with what, and who is blamed when one of them fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.demo.write import write_demo
from mmcore.runs.build import build_datasets, build_order
from mmcore.runs.settings import Request, settle

pytestmark = pytest.mark.slow

QUICK = [
    "--demo",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--no-tensorboard",
    "--log-every",
    "1",
    "--set",
    "validation={}",
]
GLEE = ["--plugin", "glee", "--stage", "2", *QUICK, "--set", "best_metric=null"]
GLEE += ["--set", "global_batch=4", "--set", "micro_batch=1"]
VISPER = ["--plugin", "visper", "--stage", "1", *QUICK, "--set", "global_batch=8", "--set", "micro_batch=2"]
POOL = ["--set", "model.contrast_pool=micro_batch"]


def mmcore(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmcore", *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def steps_of(run: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if "losses" in record]


def difference(run: Path, other: Path) -> float:
    """The largest relative difference of any loss of any step; samples and rates must be the same."""
    pairs = list(zip(steps_of(run), steps_of(other), strict=True))
    assert pairs
    assert all(a["samples"] == b["samples"] and a["lr"] == b["lr"] for a, b in pairs)
    losses = [(a["losses"] | {"total": a["total"]}, b["losses"] | {"total": b["total"]}) for a, b in pairs]
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-9) for a, b in losses for name in a)


@pytest.mark.parametrize(
    "family", [GLEE, [*VISPER, *POOL], [*VISPER, *POOL, "--set", "normalise=global"]],
    ids=["glee", "visper, pool of fixed size", "visper, pool of fixed size, normalised globally"],
)  # fmt: skip
def test_a_run_that_goes_on_with_1_2_4_and_1_processes_has_the_losses_of_one(tmp_path: Path, family: list[str]) -> None:
    mmcore("train", *family, "--out", tmp_path / "whole", "--max-steps", 8)
    run = tmp_path / "elastic"
    mmcore("train", *family, "--out", run, "--max-steps", 2)
    for processes, stop in ((2, 4), (4, 6), (1, 8)):
        said = mmcore("train", "--resume", run, "--max-steps", stop, "--nproc", processes).stderr
        assert f"and goes on with {processes}: the same samples" in said
    assert difference(tmp_path / "whole", run) < 1e-6


@pytest.mark.parametrize("zero", [2, 3])
def test_processes_that_hold_different_sources_have_the_losses_of_one(tmp_path: Path, zero: int) -> None:
    """Detection on one and expressions on the other use different parts of the model in the same step."""
    steps = 8
    start = ["train", "--plugin", "glee", "--stage", 2, *QUICK, "--set", "best_metric=null", "--max-steps", steps]
    start += ["--set", "global_batch=2", "--set", "micro_batch=1", "--set", f"zero={zero}"]
    for processes in (1, 2):
        mmcore(*start, "--nproc", processes, "--out", tmp_path / f"on-{processes}")
    family, settings, _ = settle(Request(plugin="glee", stage="2", demo=True, sets=("global_batch=2", "micro_batch=1")))
    order = build_order(settings, build_datasets(family, settings, "train"))
    pairs = [(order.source(2 * step), order.source(2 * step + 1)) for step in range(steps)]
    assert {("coco", "refcoco"), ("refcoco", "coco")} <= set(pairs)
    assert difference(tmp_path / "on-1", tmp_path / "on-2") < 1e-5


def test_the_published_contrast_depends_on_the_number_of_processes_and_the_fixed_pool_does_not(tmp_path: Path) -> None:
    for name, options in (("published", []), ("fixed", POOL)):
        for processes in (1, 2, 4):
            start = ["train", *VISPER, *options, "--max-steps", 3, "--nproc", processes]
            mmcore(*start, "--out", tmp_path / f"{name}-{processes}")
    assert difference(tmp_path / "fixed-1", tmp_path / "fixed-2") < 1e-6
    assert difference(tmp_path / "fixed-1", tmp_path / "fixed-4") < 1e-6
    assert difference(tmp_path / "published-1", tmp_path / "published-2") > 1e-2


@pytest.mark.parametrize(
    "family",
    [
        ["--plugin", "glee", "--stage", "2"],
        ["--plugin", "glamm", "--stage", "gcg"],
        ["--plugin", "griffon", "--stage", "pretrain"],
    ],
    ids=lambda words: words[1],
)
def test_the_validation_loss_of_two_processes_is_that_of_one(tmp_path: Path, family: list[str]) -> None:
    found: list[dict[str, float]] = []
    for processes in (1, 2):
        run = tmp_path / f"on-{processes}"
        start = ["train", *family, *QUICK[:-2], "--max-steps", 1, "--nproc", processes, "--out", run]
        mmcore(*start, *(f"--set={entry}" for entry in ("eval_every=1", "global_batch=4", "micro_batch=2")))
        records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        (evaluation,) = (record["eval"] for record in records if "eval" in record)
        found.append({name: value for name, value in evaluation.items() if name.endswith("/loss")})
    assert found[0]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


# The first cause


@pytest.fixture
def two(tmp_path: Path) -> tuple[list[object], Path]:
    """A command that trains GLEE on two processes, and its data."""
    data = write_demo(tmp_path / "data", train=40, val=2)
    words = ["train", "--plugin", "glee", "--stage", 2, "--variant", "tiny", "--sources", "coco", "--data", data]
    words += [
        "--set",
        "validation={}",
        "--set",
        "best_metric=null",
        "--set",
        "global_batch=2",
        "--set",
        "micro_batch=1",
    ]
    words += ["--device", "cpu", "--workers", 1, "--init", "random", "--log-every", 1, "--no-tensorboard"]
    return [*words, "--out", tmp_path / "run", "--nproc", 2], data


def test_a_bad_sample_of_rank_1_is_the_cause_that_is_told(two: tuple[list[object], Path], tmp_path: Path) -> None:
    command, data = two
    family, settings, _ = settle(Request(plugin="glee", stage="2", variant="tiny", data=data, sources=("coco",)))
    datasets = build_datasets(family, settings, "train")
    order = build_order(settings, datasets)
    # Micro-batches go round the processes: the odd ones are rank 1's. Cut a picture that it alone meets first.
    seen = [order.draws(m)[0].position for m in range(40)]
    m = next(m for m in range(1, 40, 2) if seen.index(seen[m]) == m)
    record = datasets.sources["coco"].records[seen[m]]  # type: ignore[attr-defined]
    picture = data / "coco" / "train2017" / record.image
    picture.write_bytes(picture.read_bytes()[:300])
    done = mmcore(*command, "--set", "data.bad_samples=error", "--max-steps", 25, check=False)
    assert done.returncode == 1
    assert "rank:  1 of 2, the first to fail" in done.stderr
    assert record.image in done.stderr
    assert_no_echo(done.stderr)


def test_a_killed_worker_of_rank_1_is_the_cause_that_is_told(two: tuple[list[object], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmcore", *map(str, two[0]), "--max-steps", "500"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.1)
    (trainer,) = [pid for pid in children(process.pid) if b"\0RANK=1\0" in environment(pid)]
    workers = [pid for pid in children(trainer) if b"\0RANK=1\0" in environment(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(rf"DataError: data worker 0 \(pid {workers[0]}\) was killed by signal SIGKILL", said)
    assert "rank:  1 of 2, the first to fail" in said
    assert "rank 1, micro-batch" in said
    assert_no_echo(said)


def assert_no_echo(said: str) -> None:
    assert "Traceback" not in said
    assert not re.search("gloo|Connection|recvValue|ProcessGroup", said)


def children(parent: int) -> Sequence[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return sorted(found)


def environment(process: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return b""
