"""EVA02's attention, fused beside eager: a global block of GLEE Pro and one of windows, forward and back, in one run.

    python bench/eva.py                        # 48x48 tokens, single thread

Eager makes the score matrix and its softmax, as the published code does without xFormers. The run fails unless losses
are equal. Memory is what one call adds in a process of its own.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import common
import torch
import torch.nn.functional as F
from mmcore_glee.config import PRO
from mmcore_glee.eva import EvaBlock, rotary_table
from torch import Tensor

KINDS = {"global": 0, "windows": PRO.eva_window}
WAYS = ("fused", "eager")


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with its whole matrix of scores."""
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1) @ value


class Step:
    """One block, its input, and a call that goes forward and back."""

    def __init__(self, kind: str, way: str, side: int, device: str) -> None:
        torch.manual_seed(0)
        self.block = EvaBlock(PRO, KINDS[kind], 0.0).to(device)
        width = PRO.eva_width
        self.x = torch.randn(1, side, side, width).to(device).requires_grad_()
        self.table = [part.to(device) for part in rotary_table(KINDS[kind] or side, width // PRO.eva_heads)]
        self.way = way

    def __call__(self) -> float:
        with self._attention():
            loss = self.block(self.x, *self.table).square().mean()
            loss.backward()
        self.block.zero_grad()
        self.x.grad = None
        return float(loss.detach())

    @contextmanager
    def _attention(self) -> Iterator[None]:
        if self.way == "fused":
            yield
            return
        with mock.patch.object(F, "scaled_dot_product_attention", eager):
            yield


def run(side: int, rounds: int, device: str, threads: int) -> dict:
    """Times, ratios and memory of both kinds of block."""
    result: dict = {"tokens": side * side, "device": device, "machine": common.machine(device)}
    for kind in KINDS:
        steps = {way: Step(kind, way, side, device) for way in WAYS}
        losses = {way: step() for way, step in steps.items()}
        difference = abs(losses["eager"] - losses["fused"]) / abs(losses["fused"])
        assert difference < 1e-5, f"losses differ by {difference}"
        measured = common.in_turn(steps, rounds=rounds, device=device)
        times = {
            way: [one.wall if device.startswith("cuda") else one.cpu for one in of] for way, of in measured.items()
        }
        words = ["--side", str(side), "--threads", str(threads), "--device", device, "--memory"]
        added = {way: common.in_own_process(__file__, [*words, kind, way]) for way in WAYS}
        result[kind] = {
            "ms": {way: 1000 * sorted(of)[len(of) // 2] for way, of in times.items()},
            "eager_over_fused": common.ratio(times["eager"], times["fused"]),
            "added_mib": {way: size / common.MIB for way, size in added.items()},
            "loss_difference": difference,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=48, help="tokens on each side; 96 is an image of 1536 pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        kind, way = given.memory
        step = Step(kind, way, given.side, given.device)
        print(common.memory_peak(step, given.device))
        return
    result = run(given.side, given.rounds, given.device, given.threads)
    print(json.dumps(result, indent=1))
    print(f"written to {common.save(f'eva_{given.device}', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
