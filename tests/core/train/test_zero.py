"""Several processes are one: same losses, weights and optimiser state for the same global batch."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mmcore.train import checkpoint, stored
from mmcore.train.metrics import read

STEPS = 12


def records(run_dir: Path) -> list[dict]:
    return [record for record in read(run_dir / "metrics.jsonl") if "total" in record]


def assert_close(one: Path, many: Path, *, losses: float = 2e-6, weights: float = 1e-6) -> None:
    for a, b in zip(records(one), records(many), strict=True):
        assert a["losses"].keys() == b["losses"].keys()
        assert b["total"] == pytest.approx(a["total"], rel=losses)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
        assert (b["lr"], b["samples"]) == (a["lr"], a["samples"])
    a, b = checkpoint.load(one), checkpoint.load(many)
    assert a.weights.keys() == b.weights.keys()
    for name, weight in a.weights.items():
        torch.testing.assert_close(b.weights[name], weight, rtol=1e-5, atol=weights, msg=name)
    for key, moments in a.moments.items():
        assert moments.keys() == b.moments[key].keys()
        for name, moment in moments.items():
            torch.testing.assert_close(b.moments[key][name], moment, rtol=1e-4, atol=1e-6, msg=f"{key} {name}")


@pytest.fixture(scope="session")
def single(server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("single") / "run"
    assert server.train(run_dir) == [0]
    return run_dir


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_processes_equal_one_although_their_sources_differ(
    zero_server, single: Path, tmp_path: Path, zero: int
) -> None:
    """In most steps one process has masks and the other has none, so heads are unused on one of them."""
    run_dir = tmp_path / "run"
    assert zero_server.train(run_dir, 2, stage={"zero": zero}) == [0, 0]
    assert_close(single, run_dir)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_processes_resume_byte_for_byte(zero_server, tmp_path: Path, zero: int) -> None:
    stage = {"zero": zero, "steps": 6, "checkpoint_every": 3}
    assert zero_server.train(tmp_path / "whole", 2, stage=stage, evaluating=True) == [0, 0]
    assert zero_server.train(tmp_path / "cut", 2, stage=stage, stop_step=3) == [0, 0]
    assert zero_server.train(tmp_path / "cut", 2, stage=stage, evaluating=True, resume=True) == [0, 0]
    whole, cut = (stored.path_of(tmp_path / name, 6) for name in ("whole", "cut"))
    for file in sorted(path.name for path in whole.glob("*.safetensors")):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file
    strip = [[{k: v for k, v in r.items() if k != "timing"} for r in records(tmp_path / n)] for n in ("whole", "cut")]
    assert strip[0] == strip[1]


def test_a_checkpoint_continues_on_another_number_of_processes_and_another_zero(
    zero_server, server, single: Path, tmp_path: Path
) -> None:
    """ZeRO-2 on two processes, then ZeRO-3 on two, then one plain process."""
    run_dir = tmp_path / "run"
    assert zero_server.train(run_dir, 2, stage={"zero": 2}, stop_step=4) == [0, 0]
    assert zero_server.train(run_dir, 2, stage={"zero": 3}, stop_step=8, resume=True) == [0, 0]
    assert server.train(run_dir, resume=True) == [0]
    assert_close(single, run_dir)


def test_consolidated_weights_open_in_a_plain_model(zero_server, toy, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert zero_server.train(run_dir, 2, stage={"zero": 3}, stop_step=2) == [0, 0]
    weights = checkpoint.load_weights(run_dir)
    toy.Toy().load_state_dict(weights)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    folder = stored.path_of(run_dir, 2)
    assert (folder / "model.safetensors.index.json").is_file()
    assert len(list(folder.glob("model-*-of-00002.safetensors"))) == 2


@pytest.mark.parametrize("zero", [2, 3])
def test_a_step_that_is_not_finite_on_one_process_is_skipped_by_both(
    zero_server, server, tmp_path: Path, zero: int
) -> None:
    options = {"model_options": {"poison": 3}, "constant_rate": True}
    stage = {"skip_nonfinite": 20, "zero": zero}
    assert zero_server.train(tmp_path / "two", 2, stage=stage, **options) == [0, 0]
    assert server.train(tmp_path / "one", stage=stage, **options) == [0]
    one, two = checkpoint.load(tmp_path / "one"), checkpoint.load(tmp_path / "two")
    assert 0 < one.state["skipped"] == two.state["skipped"] < STEPS
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_batch_with_nothing_to_learn_does_not_hang_the_others(zero_server, server, tmp_path: Path, zero: int) -> None:
    """Such a batch runs nothing of the model, forward or backward, on its process."""
    options = {"model_options": {"blank": 3}}
    assert zero_server.train(tmp_path / "two", 2, stage={"zero": zero}, **options) == [0, 0]
    assert server.train(tmp_path / "one", **options) == [0]
    assert_close(tmp_path / "one", tmp_path / "two")


def test_a_signal_to_one_process_stops_both_at_the_same_step(zero_server, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    pids = zero_server.start(run_dir, 2, stage={"zero": 1, "steps": 4000, "checkpoint_every": 4000}, log_every=1)
    deadline = time.monotonic() + 60
    while len(records(run_dir) if run_dir.is_dir() else []) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pids[1], signal.SIGTERM)
    assert zero_server.finish() == [143, 143]
    (step,) = stored.steps_of(run_dir)
    assert 3 <= step < 4000


def test_bf16_on_two_processes_equals_one(zero_server, server, tmp_path: Path) -> None:
    """Both run the forward pass under autocast over float32 weights."""
    stage = {"precision": "bf16", "zero": 2, "steps": 4}
    assert zero_server.train(tmp_path / "two", 2, stage=stage) == [0, 0]
    assert server.train(tmp_path / "one", stage=stage) == [0]
    assert_close(tmp_path / "one", tmp_path / "two", losses=1e-4, weights=1e-4)


def test_zero_3_gathers_module_by_module_where_paths_do_not_differ(zero_server, server, tmp_path: Path) -> None:
    """Evaluation makes another number of calls on each process, which must not gather."""
    options = {"sources": ["masks"], "model_options": {"whole_leaf": False}, "evaluating": True}
    stage = {"zero": 3, "eval_every": 4}
    assert zero_server.train(tmp_path / "two", 2, stage=stage, **options) == [0, 0]
    assert server.train(tmp_path / "one", stage=stage, **options) == [0]
    assert_close(tmp_path / "one", tmp_path / "two")
    one, two = ([r["eval"] for r in read(tmp_path / name / "metrics.jsonl") if "eval" in r] for name in ("one", "two"))
    assert two == [pytest.approx(metrics, rel=1e-5) for metrics in one]


@pytest.mark.parametrize("zero", [2, 3])
def test_the_optimiser_state_may_live_in_host_memory(zero_server, single: Path, tmp_path: Path, zero: int) -> None:
    assert zero_server.train(tmp_path / "run", 2, stage={"zero": zero, "offload": True}) == [0, 0]
    assert_close(single, tmp_path / "run")


def test_one_process_may_keep_the_optimiser_state_in_host_memory(zero_server, server, tmp_path: Path) -> None:
    """Which DeepSpeed does, so a group of one is made."""
    assert zero_server.train(tmp_path / "deepspeed", 1, stage={"zero": 2, "offload": True}) == [0]
    assert server.train(tmp_path / "plain", stage={"zero": 2}) == [0]
    assert_close(tmp_path / "plain", tmp_path / "deepspeed")
