"""GLEE's training step (forward and backward) with each saving technique off and on, in one run.

    python bench/glee_step.py                  # tiny: seconds
    python bench/glee_step.py --size lite      # GLEE Lite, two 480x640 images, 8 objects each, 80 names: minutes

Techniques (the ways to do without are in bench/reference_paths.py):

                on                                              off
    masks       at sampled points, and for matched queries      whole, for every query of every set
    matching    all sets and images in one transfer             one by one
    text        padded to the longest name, teacher cached      padded to 77, all encoded every step
    fusion      fused attention, only the side that is read     explicit matrices, both sides

Variants are `ours` (all on), one per technique with that one off, and `plain` (all off). The run fails unless all
give the same losses without dropout; figures are with the published one.

With `--published CHECKOUT` the lite size is measured with the published code, too (bench/published.py), our weights in
it. It draws for itself, so the sum of its losses is shown beside ours and not demanded to be equal; goldens with fixed
draws are (`python -m mmcore_glee.parity`).

    python bench/glee_step.py --size lite --variants ours --rounds 2 --published CHECKOUT

Wall seconds depend on what else the machine
does, CPU seconds less; memory is what one step adds in a process of its own. Off paths take the plugin's deformable
attention and denoising heads, which save something too, so `plain` is still lighter than the published code.
"""

import argparse
import dataclasses
import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import published
import reference_paths as plain
import torch
from mmcore.contract.values import Draw
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import VARIANTS
from mmcore_glee.model import Glee
from mmcore_glee.text_encoder import PhraseMemo
from mmcore_glee.tokenizer import tokenise
from mmcore_glee.vocabulary import names as vocabulary

TECHNIQUES = ("masks", "matching", "text", "fusion")
CHOICES = ("ours", *(f"no-{name}" for name in TECHNIQUES), "plain")
PUBLISHED = "published"
FORMERLY = {"cpu_seconds": 77.0, "peak_gib": (14.0, 19.0), "matmul_gflops": 345.0, "threads": 2}
"""The published code's step at the lite size on another CPU, for orientation where no checkout is given."""
TOLERANCE = 1e-4
"""Largest relative difference of a loss between variants: float32 rounding through the whole network."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What one step sees."""

    variant: str
    images: int
    height: int
    width: int
    objects: int
    rounds: int


SIZES = {"tiny": Size("tiny", 2, 192, 256, 6, 7), "lite": Size("lite", 2, 480, 640, 8, 3)}


class Step:
    """One model and one batch; parts are exchanged before each step, weights stay."""

    def __init__(self, size: Size, device: str) -> None:
        torch.manual_seed(0)
        # Published initial text projections make logits of hundreds, where rounding alone flips matchings.
        config = VARIANTS[size.variant].replace(published_init=False)
        self.device = device
        self.model = Glee(config).to(device).train()
        self.batch = make_batch(size).to(device)
        self.padded = plain.padded_to_full_length(self.batch)
        self.attention = self.model.fusion.attention
        self.criterion = self.model.criterion
        self.memos = PhraseMemo(), PhraseMemo()

    def without_dropout(self, choice: str) -> dict[str, float]:
        """The losses of one step that draws nothing: fused and explicit attention would draw other numbers."""
        published, self.attention.dropout = self.attention.dropout, 0.0
        losses = self(choice)
        self.attention.dropout = published
        return losses

    def __call__(self, choice: str) -> dict[str, float]:
        """Forward and backward; the losses, weighted and normalised."""
        off: set[str] = set(TECHNIQUES) if choice == "plain" else {choice.removeprefix("no-")}
        self._exchange(off)
        batch = self.padded if "text" in off else self.batch
        losses = self.model(batch, plain.KeyedDraws())
        values = torch.stack([loss.total / max(batch.normalisers[loss.per], 1) for loss in losses.values()])
        values.sum().backward()
        self.model.zero_grad(set_to_none=True)
        return dict(zip(losses, values.tolist(), strict=True))

    def _exchange(self, off: set[str]) -> None:
        explicit = "fusion" in off
        self.model.fusion.attention = plain.ExplicitBiAttention.of(self.attention) if explicit else self.attention
        self.model._memo, self.model._teacher_memo = (
            (plain.ForgetfulMemo(), plain.ForgetfulMemo()) if "text" in off else self.memos
        )
        numbers = {entry.name: getattr(self.criterion, entry.name) for entry in dataclasses.fields(self.criterion)}
        whole, single = "masks" in off, "matching" in off
        self.model.criterion = (
            plain.PlainCriterion(**numbers, whole_masks=whole, one_by_one=single) if whole or single else self.criterion
        )


def make_batch(size: Size) -> GleeBatch:
    """Images of noise with elliptic objects, all 80 COCO names."""
    generator = torch.Generator().manual_seed(1)
    count, shape = size.images * size.objects, (size.height, size.width)
    boxes = torch.rand(count, 4, generator=generator) * torch.tensor([0.6, 0.6, 0.3, 0.3]) + torch.tensor(
        [0.2, 0.2, 0.1, 0.1]
    )
    names = vocabulary("coco")
    input_ids, attention_mask = tokenise(names)
    return GleeBatch(
        source="bench",
        draws=tuple(Draw("bench", i, i) for i in range(size.images)),
        normalisers={
            "objects": float(count),
            "samples": float(size.images),
            "batches": 1.0,
            "text_tokens": float(attention_mask.sum()),
        },
        images=torch.randint(0, 256, (size.images, 3, *shape), generator=generator, dtype=torch.uint8),
        image_sizes=(shape,) * size.images,
        original_sizes=(shape,) * size.images,
        image_ids=tuple(range(size.images)),
        num_objects=(size.objects,) * size.images,
        labels=torch.randint(0, len(names), (count,), generator=generator),
        boxes_cxcywh=boxes,
        masks=ellipses(boxes, *shape),
        task="coco",
        names=names,
        input_ids=input_ids,
        attention_mask=attention_mask,
    )


def ellipses(boxes_cxcywh: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The ellipse inside each box as a mask of bytes."""
    y = ((torch.arange(height) + 0.5) / height)[None, :, None]
    x = ((torch.arange(width) + 0.5) / width)[None, None]
    cx, cy, w, h = boxes_cxcywh[:, :, None, None].unbind(1)
    return (((x - cx) / w).square() + ((y - cy) / h).square() < 0.25).to(torch.uint8)


def compare(losses: dict[str, dict[str, float]]) -> dict[str, float]:
    """Largest relative difference of any loss to ours, by variant.

    Raises:
        SystemExit: a variant computes something else.
    """
    ours, largest = losses["ours"], {}
    for choice, values in losses.items():
        if set(values) != set(ours):
            raise SystemExit(f"{choice} has other losses than ours: {sorted(set(values) ^ set(ours))}")
        worst = max(ours, key=lambda name: abs(values[name] - ours[name]) / max(abs(ours[name]), 1e-3))
        largest[choice] = abs(values[worst] - ours[worst]) / max(abs(ours[worst]), 1e-3)
        if not largest[choice] <= TOLERANCE:
            raise SystemExit(f"{choice}: {worst} is {values[worst]:.7g} instead of {ours[worst]:.7g}")
    return largest


def run(
    size_name: str, choices: Sequence[str], rounds: int, device: str, threads: int, checkout: Path | None, weigh: bool
) -> dict[str, Any]:
    """Every figure of one size."""
    size = SIZES[size_name]
    machine = common.machine(device)
    step = Step(size, device)
    losses = {choice: step.without_dropout(choice) for choice in choices}
    difference = compare(losses)
    steps: dict[str, Callable[[], dict[str, float]]] = {choice: partial(step, choice) for choice in choices}
    if checkout:
        steps[PUBLISHED] = published.step(checkout, step.batch, step.model, device)
        choices, theirs = [*choices, PUBLISHED], sum(steps[PUBLISHED]().values())
        difference[PUBLISHED] = abs(theirs / sum(losses["ours"].values()) - 1)
    times = common.in_turn(steps, rounds=rounds, warmup=0, device=device)
    del step, steps
    own = ["--size", size_name, "--device", device, "--threads", str(threads)]
    own += ["--published", str(checkout)] if checkout else []
    memory = {choice: common.in_own_process(__file__, [*own, "--memory", choice]) for choice in choices if weigh}
    variants = {}
    for choice in choices:
        cpu, wall = [r.cpu for r in times[choice]], [r.wall for r in times[choice]]
        variants[choice] = {
            "cpu_seconds": statistics.median(cpu),
            "wall_seconds": statistics.median(wall),
            "cpu_ratio_to_ours": common.ratio(cpu, [r.cpu for r in times["ours"]]),
            "wall_ratio_to_ours": common.ratio(wall, [r.wall for r in times["ours"]]),
            "largest_loss_difference": difference[choice],
        }
        if weigh:
            variants[choice] |= memory[choice]
            variants[choice]["memory_ratio_to_ours"] = memory[choice]["added"] / memory["ours"]["added"]
    return {"size": dataclasses.asdict(size), "rounds": rounds, "machine": machine, "variants": variants}


def memory_of(size_name: str, choice: str, device: str, checkout: Path | None) -> dict[str, int]:
    """Bytes that a step adds to what model and batch take, and the most the process ever held."""
    step = Step(SIZES[size_name], device)
    call: Callable[[], dict[str, float]] = partial(step, choice)
    if choice == PUBLISHED:
        assert checkout is not None
        call = published.step(checkout, step.batch, step.model, device)
        del step
        gc.collect()
    added = common.memory_peak(call, device)
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else common.resident("VmHWM")
    return {"added": added, "peak": peak}


def show(result: dict[str, Any]) -> str:
    """The table for people."""
    machine, on_gpu = result["machine"], result["machine"]["device"].startswith("NVIDIA")
    clock = "wall" if on_gpu else "cpu"
    rows: list[list[object]] = [
        ["variant", "CPU s", "wall s", f"{clock} x ours", "95 %", "adds MiB", "x ours", "peak MiB", "loss diff"]
    ]
    for choice, figures in result["variants"].items():
        quotient = figures[f"{clock}_ratio_to_ours"]
        rows.append(
            [
                choice,
                f"{figures['cpu_seconds']:.2f}",
                f"{figures['wall_seconds']:.2f}",
                f"{quotient['median']:.2f}",
                f"{quotient['low']:.2f}-{quotient['high']:.2f}",
                *_weights(figures),
                f"{figures['largest_loss_difference']:.0e}",
            ]
        )
    head = (
        f"{machine['device']}, {machine['threads']} threads, {machine['matmul_gflops']:.0f} GFLOP/s in a 2048^3 "
        f"product, {machine['copy_gbytes_per_s']:.0f} GB/s"
    )
    lines = [head, common.table(rows)]
    if (
        result["size"]["variant"] == "lite"
        and not on_gpu
        and "peak" in result["variants"]["ours"]
        and PUBLISHED not in result["variants"]
    ):
        lines.append(orientation(result))
    return "\n".join(lines)


def _weights(figures: dict[str, Any]) -> list[str]:
    if "added" not in figures:
        return ["-"] * 3
    ratio = f"{figures['memory_ratio_to_ours']:.2f}"
    return [f"{figures['added'] / common.MIB:.0f}", ratio, f"{figures['peak'] / common.MIB:.0f}"]


def orientation(result: dict[str, Any]) -> str:
    """Our step beside the published code's, brought to its machine by the matrix product."""
    ours = result["variants"]["ours"]
    speed = result["machine"]["matmul_gflops"] / result["machine"]["threads"]
    speed /= FORMERLY["matmul_gflops"] / FORMERLY["threads"]
    seconds = ours["cpu_seconds"] * speed
    low, high = FORMERLY["peak_gib"]
    return (
        f"published code: {FORMERLY['cpu_seconds']:.0f} CPU s, {low:.0f}-{high:.0f} GiB; ours at that machine's speed "
        f"per core: {seconds:.0f} CPU s ({seconds / FORMERLY['cpu_seconds']:.0%}), "
        f"{ours['peak'] / 2**30:.1f} GiB ({ours['peak'] / 2**30 / low:.0%} of {low:.0f} GiB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, help="timed steps of each variant")
    parser.add_argument("--variants", default=",".join(CHOICES), help="which of: " + ", ".join(CHOICES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--published", type=Path, help="checkout of FoundationVision/GLEE, for the lite size")
    parser.add_argument(
        "--memory", choices=[*CHOICES, PUBLISHED], metavar="VARIANT", help="only this variant's memory, as JSON"
    )
    parser.add_argument("--no-memory", action="store_true", help="time only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(memory_of(options.size, options.memory, options.device, options.published)))
        return
    choices = ["ours", *(choice for choice in options.variants.split(",") if choice != "ours")]
    if unknown := set(choices) - set(CHOICES):
        parser.error(f"no variant {', '.join(sorted(unknown))}; known: {', '.join(CHOICES)}")
    if options.published and options.size != "lite":
        parser.error("the published code is measured at the lite size: --size lite")
    rounds = options.rounds or SIZES[options.size].rounds
    weigh = not options.no_memory
    result = run(options.size, choices, rounds, options.device, options.threads, options.published, weigh)
    print(show(result))
    print(f"written to {common.save(f'glee_step_{options.size}', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
