"""Two processes, ZeRO-2 and ZeRO-3: masks on one and a caption on the other neither hang nor change a number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcore.train.objective import divisors
from mmcore.train.optim import adamw, freeze, parameter_groups
from mmcore_glamm.config import TINY
from mmcore_glamm.model import Glamm


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    program = Path(__file__).parent / "ranks.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(ranks):
    """The same steps in one process, with the micro-batches one after the other."""
    torch.manual_seed(3)
    model, stage = Glamm(TINY), ranks.stage()
    freeze(model, stage)
    optimiser = adamw(parameter_groups(model, stage), stage)
    model.train()
    totals = []
    for number, kinds in enumerate(ranks.STEPS):
        batches = [ranks.tiny_batch(kind, seed=10 * number + rank) for rank, kind in enumerate(kinds)]
        counts = divisors([[batch.normalisers] for batch in batches], "global")[0]
        optimiser.zero_grad(set_to_none=False)
        total = 0.0
        for batch in batches:
            loss = torch.stack([loss.total / counts[loss.per] for loss in model(batch).values()]).sum()
            loss.backward()
            total += loss.item()
        for parameter in model.parameters():  # what no loss reached goes on by its momentum
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        totals.append(total)
    weights = {name: float(p.detach().double().norm()) for name, p in model.named_parameters()}
    return totals, weights


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_two_processes_train_like_one_whatever_each_has(together, alone, name):
    first, second = (json.loads((together / f"{name}.{rank}.json").read_text()) for rank in range(2))
    assert first["totals"] == second["totals"]
    assert first["totals"] == pytest.approx(alone[0], rel=2e-4)
    assert second["parts"][0]["mask_bce"] == 0.0 < first["parts"][0]["mask_bce"]
    for key, norm in first["weights"].items():
        assert norm == pytest.approx(alone[1][key], rel=1e-3, abs=1e-5), key
