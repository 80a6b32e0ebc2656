"""Losses that leave their spread, runs that skip to their end, fp16's overflows, and memory that runs out."""

import io
import sys
from pathlib import Path

import pytest
import torch
from mmcore.base.terminal import Forgiving
from mmcore.errors import LossSpikeError, NonFiniteError, OutOfMemoryError
from mmcore.train import checkpoint, stored
from mmcore.train.engine import PlainEngine
from mmcore.train.metrics import read
from mmcore.train.spikes import NEEDED, Recent

SPIKE_AT = 25


def spiking(toy, run_dir: Path, stage, **options):
    """A run whose loss is 1e8 times as large in one step, of four micro-batches."""
    setup = toy.toy_setup(run_dir, stage, **options)
    forward = setup.model.forward

    def spiked(batch):
        losses = forward(batch)
        if batch.draws[0].seed in seeds:
            losses["box"] = toy.Loss(losses["box"].total * 1e8, "objects")
        return losses

    order = setup.batches.order
    seeds = {order.draws(m)[0].seed for m in range(4 * (SPIKE_AT - 1), 4 * SPIKE_AT)}
    setup.model.forward = spiked
    return setup


def test_a_spike_is_told_once_and_applied_by_default(toy, tmp_path: Path) -> None:
    toy.train(spiking(toy, tmp_path, toy.toy_stage(steps=40)))
    told = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "the loss is" in line]
    assert len(told) == 1
    assert f"step {SPIKE_AT}: the loss is" in told[0]
    assert "it was applied" in told[0]


def test_a_spike_stops_before_its_update_where_the_recipe_says_so(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(steps=40, loss_spikes="stop", checkpoint_every=8)
    with pytest.raises(LossSpikeError, match=f"step {SPIKE_AT}") as caught:
        toy.train(spiking(toy, tmp_path, stage))
    assert "--resume" in str(caught.value)
    assert len(list(tmp_path.glob(f"spikes/step-{SPIKE_AT:08d}/rank-0/micro-batch-*/batch.json"))) == 4
    with pytest.raises(LossSpikeError, match=f"step {SPIKE_AT}"):  # what it compares with outlives a resume
        toy.train(spiking(toy, tmp_path, stage, resume=True))
    assert toy.train(spiking(toy, tmp_path, stage.replace(loss_spikes="warn"), resume=True)).step == 40


def test_nothing_is_judged_before_there_is_something_to_compare_with() -> None:
    recent = Recent([1.0] * (NEEDED - 1))
    assert not recent.is_spike(1e9)
    recent.add(1.0)
    assert recent.is_spike(1e9)
    assert not recent.is_spike(3.0)


def test_a_mixture_with_losses_of_different_size_is_no_spike() -> None:
    recent = Recent([1.0, 1.2, 30.0, 0.9] * 16)
    assert not recent.is_spike(31.0) or recent.is_spike(1e5)
    assert recent.is_spike(1e5)


def test_a_run_whose_last_steps_were_all_skipped_fails_after_it_was_saved(toy, tmp_path: Path) -> None:
    setup = toy.toy_setup(tmp_path, toy.toy_stage(steps=6, skip_nonfinite=10))
    forward = setup.model.forward
    setup.model.forward = lambda batch: toy.Losses(box=toy.Loss(forward(batch)["box"].total * float("nan"), "objects"))
    with pytest.raises(NonFiniteError, match="last 6 of 6 steps"):
        toy.train(setup)
    assert stored.last_good(tmp_path, print) == 6


def test_overflows_of_fp16_are_counted_and_logged_and_nothing_was_applied_at_them(toy, tmp_path: Path) -> None:
    setup = toy.toy_setup(tmp_path, toy.toy_stage(precision="fp16"))
    forward = setup.model.forward
    # The loss is finite; its gradient, over 24 objects and times a loss scale above 2^14, is not.
    setup.model.forward = lambda batch: toy.Losses(
        box=toy.Loss(Overflowing.apply(forward(batch)["box"].total), "objects")
    )
    toy.train(setup)
    records = read(tmp_path / "metrics.jsonl")
    assert records[-1]["overflows"] == 2
    assert [record["lr"]["group0"] == 0.0 for record in records[:3]] == [True, True, False]
    assert records[-1]["loss_scale"] == 2.0**14
    assert checkpoint.load(tmp_path).state["passed"]["overflows"] == 2


class Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient.abs() > 2.0**10, torch.full_like(gradient, float("inf")), gradient)


def test_out_of_memory_names_layer_samples_and_remedies_and_has_its_own_code(toy, tmp_path: Path) -> None:
    setup = toy.toy_setup(tmp_path)

    def full(features):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity")

    setup.model.trunk[1].forward = full

    class Layer(torch.nn.Module):
        def forward(self, features):
            return full(features)

    setup.model.trunk[1] = Layer()
    with pytest.raises(OutOfMemoryError) as caught:
        toy.train(setup)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert "in step 1, in layer trunk.1 (Layer): CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert "micro-batch 0, source" in said
    assert said.index("micro_batch=1") < said.index("gradient_checkpointing=true") < said.index("mmcore plan")


def test_memory_that_runs_out_in_the_backward_pass_or_the_update_is_told_too(toy, tmp_path: Path, monkeypatch) -> None:
    def full(self, *arguments):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 8 GB")

    monkeypatch.setattr(PlainEngine, "backward", full)
    with pytest.raises(OutOfMemoryError, match="can't allocate memory"):
        toy.train(toy.toy_setup(tmp_path))


class Gone(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "pipe"), OSError(28, "full")])
def test_a_run_goes_on_when_nobody_reads_what_it_shows(toy, tmp_path: Path, monkeypatch, error: Exception) -> None:
    monkeypatch.setattr(sys, "stderr", Forgiving(Gone(error)))
    assert toy.train(toy.toy_setup(tmp_path, show=True)).step == 12
    assert "saved" in (tmp_path / "log.txt").read_text()
