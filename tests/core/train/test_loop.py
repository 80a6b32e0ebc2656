"""What a step computes: normalisation, randomness by position, gradients of zero, and what is logged."""

from pathlib import Path

import pytest
import torch
from mmcore.errors import RecipeError, ShapeError
from mmcore.train import checkpoint
from mmcore.train.loop import accumulation
from mmcore.train.metrics import cut, read
from mmcore.train.objective import divisors


def test_divisors_sum_over_everything_and_never_fall_below_one() -> None:
    counts = [[{"objects": 3.0, "masks": 0.0}, {"objects": 1.0, "masks": 0.0}], [{"objects": 2.0}, {"objects": 0.0}]]
    assert divisors(counts, "global") == [{"masks": 1.0, "objects": 6.0}] * 2


def test_micro_batch_divisors_are_those_of_the_published_code() -> None:
    """Mean count over the processes beside it, at least one; then the mean over processes and micro-batches."""
    counts = [[{"n": 3.0}, {"n": 0.0}], [{"n": 2.0}, {"n": 1.0}]]
    assert divisors(counts, "micro_batch") == [{"n": 2.5 * 4}, {"n": 1.0 * 4}]


def test_process_divisors_are_each_process_own() -> None:
    """Means of unequal counts are averaged with equal weight, as trainers of language models averaged them."""
    counts = [[{"n": 3.0}, {}], [{"n": 5.0}, {"n": 1.0}]]
    assert divisors(counts, "process", 0) == [{"n": 3.0 * 4}, {"n": 1.0 * 4}]
    assert divisors(counts, "process", 1) == [{"n": 5.0 * 4}, {"n": 1.0 * 4}]


@pytest.mark.parametrize("mode", ["global", "process"])
def test_the_divisors_of_two_modes_do_not_depend_on_the_number_of_processes(mode) -> None:
    """The same four micro-batches, each divided by the same, on one process, two and four."""
    counts = [{"n": 3.0}, {"n": 5.0}, {"n": 0.5}, {"n": 2.0}]
    laid_out = {world: [counts[rank::world] for rank in range(world)] for world in (1, 2, 4)}
    divided = {world: [divisors(cut, mode, m % world)[m // world] for m in range(4)] for world, cut in laid_out.items()}
    assert divided[1] == divided[2] == divided[4]


def test_the_cut_of_a_global_batch_does_not_change_its_loss(toy, tmp_path: Path) -> None:
    """The same samples in micro-batches of one, two or four; dropout and noise off, since they differ per call."""
    losses = {}
    for micro in (1, 2, 4):
        stage = toy.toy_stage(
            micro_batch=micro,
            data=toy.Data(sources={"boxes": toy.Source(weight=1.0, format="toy")}, mixture=toy.WholeEpochs()),
        )
        setup = toy.toy_setup(tmp_path / str(micro), stage)
        setup.model.trunk[2].p = 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", torch.zeros_like)
            toy.train(setup)
        losses[micro] = [(r["total"], r["grad_norm"]) for r in read(tmp_path / str(micro) / "metrics.jsonl")]
    for micro in (1, 4):
        for ours, theirs in zip(losses[micro], losses[2], strict=True):
            assert ours == pytest.approx(theirs, rel=2e-5)


def test_random_numbers_depend_on_the_position_alone(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path / "a")})
    torch.manual_seed(999)
    toy.run({"run_dir": str(tmp_path / "b")})
    a, b = ([r["total"] for r in read(tmp_path / name / "metrics.jsonl")] for name in "ab")
    assert a == b


def test_unused_parameters_are_moved_by_decay_and_momentum(toy, tmp_path: Path) -> None:
    """With boxes only, the mask head has no gradient: decay shrinks it exactly, as with a gradient of zero."""
    stage = toy.toy_stage(
        data=toy.Data(sources={"boxes": toy.Source(weight=1.0, format="toy")}), schedule=toy.Constant()
    )
    setup = toy.toy_setup(tmp_path, stage)
    before = setup.model.mask_head[0].weight.detach().clone()
    toy.train(setup)
    expected = before.double()
    for _ in range(12):
        expected = expected * (1 - 0.01 * 0.05)
    torch.testing.assert_close(setup.model.mask_head[0].weight.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_loss_whose_count_is_missing_names_both(toy, tmp_path: Path) -> None:
    setup = toy.toy_setup(tmp_path)
    original = setup.model.forward
    setup.model.forward = lambda batch: toy.Losses(box=toy.Loss(original(batch)["box"].total, "pixels"))
    with pytest.raises(ShapeError, match="'box' is per 'pixels'"):
        toy.train(setup)


@pytest.mark.parametrize(("world", "micro", "ok"), [(1, 2, 4), (2, 2, 2), (4, 2, 1), (3, 2, None), (8, 2, None)])
def test_the_global_batch_must_divide_among_processes(toy, world: int, micro: int, ok: int | None) -> None:
    stage = toy.toy_stage(global_batch=8, micro_batch=micro)
    if ok is None:
        with pytest.raises(RecipeError, match="does not divide"):
            accumulation(stage, world)
    else:
        assert accumulation(stage, world) == ok


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_with_float32_weights(toy, tmp_path: Path, precision: str) -> None:
    toy.run({"run_dir": str(tmp_path / "low"), "stage": {"precision": precision}})
    toy.run({"run_dir": str(tmp_path / "full")})
    low, full = ([r["total"] for r in read(tmp_path / name / "metrics.jsonl")] for name in ("low", "full"))
    loaded = checkpoint.load(tmp_path / "low")
    assert all(loaded.weights[name].dtype == torch.float32 for name in loaded.weights)
    if precision == "bf16":
        assert low == pytest.approx(full, rel=0.02)
        return
    # The first steps find the loss scale: each one that overflows halves it and updates nothing.
    assert low[0] == pytest.approx(full[0], rel=0.01)
    scale, good = loaded.state["loss_scale"]
    assert scale == 65536.0 / 2 ** (12 - loaded.state["updates"])
    assert 0 < good <= loaded.state["updates"]


def test_lines_past_a_checkpoint_and_half_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "total": 2.0}\n{"step": 2, "total": 1.0}\n{"step": 3, "tot')
    cut(path, 2)
    assert path.read_text() == '{"step": 1, "total": 2.0}\n{"step": 2, "total": 1.0}\n'
    cut(path, 1)
    assert [record["step"] for record in read(path)] == [1]


def test_the_records_of_a_run_are_complete(toy, tmp_path: Path) -> None:
    toy.run({"run_dir": str(tmp_path), "tensorboard": True, "evaluating": True, "stage": {"eval_every": 6}})
    records = read(tmp_path / "metrics.jsonl")
    steps = [record for record in records if "total" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert steps[-1]["samples"] == 96
    assert steps[-1]["lr"] == pytest.approx({"group0": 0.0005, "group1": 0.001})
    assert sum(steps[-1]["losses"].values()) == pytest.approx(steps[-1]["total"], rel=1e-5)
    assert {"step_s", "samples_per_s", "data_wait_percent", "memory_gb"} <= steps[-1]["timing"].keys()
    assert [record["step"] for record in records if "eval" in record] == [6, 12]
    assert list((tmp_path / "tensorboard").glob("events.out.*"))
    assert "saved" in (tmp_path / "log.txt").read_text()
