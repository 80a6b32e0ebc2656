"""Deformable sampling, forward and backward: one embedding bag beside one `grid_sample` per level, in one run.

    python bench/deformable.py                 # one encoder layer of GLEE at 480x640 pixels, single thread

`by_level` is ours with sizes of levels not repeated for every head and point, as before: the same numbers in more time.
On a GPU the Triton kernels are one more. The run fails unless outputs and all gradients are equal.
"""

import argparse
import json
import sys
from functools import partial

import common
import torch
import torch.nn.functional as F
from mmcore_glee import deformable
from mmcore_glee.deformable import Shapes, sample
from torch import Tensor

SHAPES: Shapes = ((60, 80), (30, 40), (15, 20), (8, 10))
HEADS, POINTS, CHANNELS = 8, 4, 32


def by_grids(value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """What the published code does without its CUDA operator: every sampled row of every level exists at once."""
    batch, _, heads, channels = value.shape
    sampled = []
    for level, (part, (height, width)) in enumerate(zip(value.split([h * w for h, w in shapes], dim=1), shapes)):
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        size = torch.tensor([width, height], dtype=value.dtype, device=value.device)
        grid = ((points[:, :, :, level] + 0.5) / size * 2 - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(image, grid, align_corners=False))
    shares = weights.permute(0, 2, 1, 3, 4).flatten(3).flatten(0, 1)[:, None]
    summed = (torch.cat(sampled, dim=-1) * shares).sum(-1)
    return summed.view(batch, heads * channels, -1).transpose(1, 2)


def by_level(value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """Ours with the former sizes, which `Layer` takes back after the backward pass."""
    deformable._by_point = lambda shapes, device, *_: deformable._geometry(shapes, device)[:3]
    return sample(value, points, weights, shapes, triton=False)


REPEATED = deformable._by_point


class Layer:
    """Inputs of one encoder layer, and a call that goes forward and back."""

    def __init__(self, device: str) -> None:
        draw = torch.Generator().manual_seed(0)
        pixels, levels = sum(h * w for h, w in SHAPES), len(SHAPES)
        places = torch.cat([_centres(height, width) for height, width in SHAPES])
        size = torch.tensor([[width, height] for height, width in SHAPES])
        near = torch.randn(1, pixels, HEADS, levels, POINTS, 2, generator=draw) * 3
        points = places[None, :, None, None, None] * size[:, None] - 0.5 + near
        weights = torch.randn(1, pixels, HEADS, levels * POINTS, generator=draw).softmax(-1)
        value = torch.randn(1, pixels, HEADS, CHANNELS, generator=draw)
        self.gradient = torch.randn(1, pixels, HEADS * CHANNELS, generator=draw).to(device)
        parts = (value, points, weights.unflatten(-1, (levels, POINTS)))
        self.inputs = [part.to(device).requires_grad_() for part in parts]

    def __call__(self, function) -> list[Tensor]:
        out = function(*self.inputs, SHAPES)
        found = [out.detach(), *torch.autograd.grad(out, self.inputs, self.gradient)]
        deformable._by_point = REPEATED
        return found


def _centres(height: int, width: int) -> Tensor:
    across, down = torch.meshgrid(
        (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height, indexing="xy"
    )
    return torch.stack([across, down], dim=-1).view(-1, 2)


def run(rounds: int, device: str) -> dict:
    """Times, ratio and the largest difference relative to the largest entry."""
    layer = Layer(device)
    variants = {"ours": partial(sample, triton=False), "by_level": by_level, "grids": by_grids}
    if device.startswith("cuda"):
        variants["triton"] = sample
    found = {name: layer(function) for name, function in variants.items()}
    pairs = [pair for name in variants for pair in zip(found[name], found["grids"], strict=True)]
    difference = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)
    assert difference < 1e-5, f"the variants differ by {difference}"
    calls = {name: (lambda function=function: layer(function)) for name, function in variants.items()}
    measured = common.in_turn(calls, rounds=rounds, device=device)
    seconds = {
        name: [one.wall if device.startswith("cuda") else one.cpu for one in of] for name, of in measured.items()
    }
    return {
        "device": device,
        "ms": {name: 1000 * sorted(of)[len(of) // 2] for name, of in seconds.items()},
        "by_level_over_ours": common.ratio(seconds["by_level"], seconds["ours"]),
        "grids_over": {name: common.ratio(seconds["grids"], of) for name, of in seconds.items() if name != "grids"},
        "largest_difference": difference,
        "machine": common.machine(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = run(given.rounds, given.device)
    print(json.dumps(result, indent=1))
    print(f"written to {common.save(f'deformable_{given.device}', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
