"""What stops a run on purpose: numbers that are not finite, a folder that is taken."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from mmcore.base.lock import holder, run_lock
from mmcore.errors import CheckpointError, NonFiniteError
from mmcore.train import checkpoint, stored
from mmcore.train.metrics import read
from safetensors.torch import load_file


def test_a_loss_that_is_not_finite_stops_before_the_update_with_its_batch(toy, tmp_path: Path) -> None:
    drawn: list[Path] = []
    setup = toy.toy_setup(tmp_path, model_options={"poison": 3}, picture=lambda batch, folder: drawn.append(folder))
    before = {}
    original = torch.optim.AdamW.step

    def remember(optimizer, *arguments):
        result = original(optimizer, *arguments)
        before.update({name: weight.clone() for name, weight in setup.model.state_dict().items()})
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", remember)
        with pytest.raises(NonFiniteError, match="the loss is not finite at step") as caught:
            toy.train(setup)
    assert "box" in str(caught.value)
    for name, weight in setup.model.state_dict().items():
        assert torch.equal(weight, before[name]) if before else torch.isfinite(weight).all()
    batches = sorted(tmp_path.glob("nonfinite/step-*/rank-0/micro-batch-*"))
    assert batches == sorted(drawn)
    assert len(batches) == 4
    records = [json.loads((folder / "batch.json").read_text()) for folder in batches]
    assert any(draw[1] == 3 for record in records for draw in record["draws"])
    assert "nan" in {record["losses"]["box"] for record in records}
    assert load_file(batches[0] / "tensors.safetensors")["features"].shape == (2, toy.WIDTH)


def test_a_drawing_that_fails_does_not_hide_the_error(toy, tmp_path: Path) -> None:
    def broken(batch, folder) -> None:
        raise ValueError("no pencil")

    with pytest.raises(NonFiniteError):
        toy.train(toy.toy_setup(tmp_path, model_options={"poison": 3}, picture=broken))
    assert list(tmp_path.glob("nonfinite/**/picture-failed.txt"))


def test_skipped_steps_update_nothing_and_are_counted_over_a_resume(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(skip_nonfinite=10, steps=30, checkpoint_every=10)
    options = {"model_options": {"poison": 3}}
    toy.train(toy.toy_setup(tmp_path / "whole", stage, **options))
    toy.train(toy.toy_setup(tmp_path / "cut", stage, stop_step=15, **options))
    toy.train(toy.toy_setup(tmp_path / "cut", stage, resume=True, **options))
    whole, cut = checkpoint.load(tmp_path / "whole"), checkpoint.load(tmp_path / "cut")
    assert whole.state == cut.state
    assert whole.state["skipped"] > 0
    assert whole.state["updates"] == 30 - whole.state["skipped"]
    assert all(torch.equal(whole.weights[name], cut.weights[name]) for name in whole.weights)
    skipped = [record for record in read(tmp_path / "whole" / "metrics.jsonl") if record["total"] is None]
    assert len(skipped) == whole.state["skipped"]


def test_more_bad_steps_than_the_budget_stop_the_run(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(skip_nonfinite=1, steps=200)
    with pytest.raises(NonFiniteError, match="not finite"):
        toy.train(toy.toy_setup(tmp_path, stage, model_options={"poison": 3}))


def test_a_second_run_in_one_folder_is_refused_with_the_first_ones_number(toy, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with run_lock(tmp_path):
            os.write(os.open(tmp_path / "ready", os.O_CREAT | os.O_WRONLY), b"x")
            signal.pause()
        os._exit(0)
    while not (tmp_path / "ready").exists():
        pass
    try:
        assert holder(tmp_path) == child
        with pytest.raises(CheckpointError, match=f"in use by process {child}"):
            toy.run({"run_dir": str(tmp_path)})
        assert not stored.steps_of(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert holder(tmp_path) is None
    toy.run({"run_dir": str(tmp_path), "stop_step": 1})
