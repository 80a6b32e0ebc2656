"""The embedding losses: sums over samples, masks, and the other processes' images."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmcore_visper.losses import Candidates, contrastive, embedding_loss, exchange_shares, gather_targets, smooth_l1

RANKS = Path(__file__).parent / "ranks.py"


def pair(count=4, *shape):
    torch.manual_seed(0)
    return torch.randn(count, *(shape or (5, 3))), torch.randn(count, *(shape or (5, 3)))


def test_losses_of_two_halves_add_up_when_they_share_their_candidates():
    p, t = pair()
    whole = gather_targets(t)
    scale = torch.tensor(3.0)
    together = embedding_loss(p, t, whole, scale, weight=0.3)
    halves = [embedding_loss(p[i : i + 2], t[i : i + 2], Candidates(whole.rows, i), scale, weight=0.3) for i in (0, 2)]
    for name in ("smooth_l1", "contrastive"):
        total = sum(getattr(half, name) for half in halves)
        torch.testing.assert_close(total, getattr(together, name))


def test_masked_samples_leave_both_losses():
    p, t = pair()
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    loss = embedding_loss(p, t, gather_targets(t), torch.tensor(2.0), weight=0.5, has_image=mask)
    torch.testing.assert_close(loss.smooth_l1, smooth_l1(p, t)[mask.bool()].sum())
    expected = 0.5 * contrastive(p, gather_targets(t), torch.tensor(2.0))[mask.bool()].sum()
    torch.testing.assert_close(loss.contrastive, expected)


def test_the_released_average_differs_only_where_a_sample_is_masked():
    p, t = pair()
    scale, candidates = torch.tensor(2.0), gather_targets(t)
    for mask, same in ((torch.ones(4), True), (torch.tensor([1.0, 0.0, 1.0, 1.0]), False), (torch.zeros(4), True)):
        clean, released = (
            embedding_loss(p, t, candidates, scale, weight=0.3, has_image=mask, outer_product=outer).contrastive
            for outer in (False, True)
        )
        assert torch.isclose(clean, released).item() is same


def test_without_candidates_there_is_no_contrast():
    p, t = pair()
    assert embedding_loss(p, t, None, None, weight=0.3).contrastive == 0


def test_losses_are_float32_under_autocast():
    p, t = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = embedding_loss(p, t, gather_targets(t), torch.tensor(7.0), weight=0.3)
    high = embedding_loss(p, t, gather_targets(t), torch.tensor(7.0), weight=0.3)
    assert (low.smooth_l1.dtype, low.contrastive.dtype) == (torch.float32, torch.float32)
    assert torch.equal(low.contrastive, high.contrastive)


def test_a_perfect_prediction_among_orthogonal_images_has_the_known_loss():
    t = torch.eye(3)
    value = contrastive(5 * t, gather_targets(t), torch.tensor(2.0))
    torch.testing.assert_close(value, torch.full((3,), -2 + math.log(math.exp(2) + 2)))


def test_no_images_cost_nothing_and_stay_in_the_graph():
    p, t = torch.zeros(0, 5, 3, requires_grad=True), torch.zeros(0, 5, 3)
    loss = embedding_loss(p, t, gather_targets(t), torch.tensor(2.0), weight=0.3)
    (loss.smooth_l1 + loss.contrastive).backward()
    assert (float(loss.smooth_l1.detach()), float(loss.contrastive.detach())) == (0.0, 0.0)
    assert exchange_shares({"depth": t}) is None


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two real processes saw, scenario by scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_LOG_LEVEL": "error", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, str(RANKS), str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def seen(folder: Path, name: str, rank: int):
    return json.loads((folder / f"{name}.{rank}.json").read_text())


def test_processes_gather_differing_numbers_of_targets_in_rank_order(together, ranks):
    parts = [ranks.targets_of(rank).flatten(1) for rank in range(2)]
    for name, counts in {"none": (2, 0), "some": (2, 3)}.items():
        # The first process holds float16 values, which travel as they are or widened: nothing is rounded on the way.
        sent = [parts[0].half().float(), parts[1]]
        rows = torch.cat([part[:count] for part, count in zip(sent, counts, strict=True)])
        for rank in range(2):
            found = seen(together, "gather", rank)[name]
            assert found["counts"] == list(counts)
            assert found["first"] == sum(counts[:rank])
            assert found["half"] is (name == "none")
            torch.testing.assert_close(torch.tensor(found["rows"]), F.normalize(rows, dim=-1))


def test_a_process_whose_batch_is_all_text_hangs_nobody_and_zero_2_equals_zero_3(together, ranks):
    runs = {name: [seen(together, name, rank) for rank in range(2)] for name in ranks.SCENARIOS}
    for first, second in runs.values():
        assert first["totals"] == second["totals"]
        assert len(first["totals"]) == len(ranks.STEPS)
    assert runs["zero3"][0]["totals"] == pytest.approx(runs["zero2"][0]["totals"], rel=1e-6)
    assert runs["frozen3"][0]["totals"][0] == pytest.approx(runs["zero2"][0]["totals"][0], rel=1e-6)
    for name, norm in runs["zero2"][0]["weights"].items():
        assert runs["zero3"][0]["weights"][name] == pytest.approx(norm, rel=1e-5, abs=1e-6), name
    for rank, images in enumerate(ranks.STEPS[1]):
        parts = runs["zero2"][rank]["parts"][1]
        assert all((parts[task] > 0) is any(images) for task in ("gen", "depth", "seg"))
