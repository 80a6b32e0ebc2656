"""What is differentiated: the model's summed losses, each divided by its count, in one module.

A loss is a sum over tokens, objects or masks. With `normalise: global` it is divided by how many of them the whole
global batch holds, so that the gradient does not depend on how that batch is cut into processes and accumulation
steps. With `normalise: micro_batch` each micro-batch is divided by the mean count of the processes that run beside
it, as the published code of the DETR family does, and micro-batches are then averaged. With `normalise: process` each
process divides by its own count alone, as trainers of language models did before transformers 5.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmcore.contract.values import Batch, Losses
from mmcore.errors import PluginError, ShapeError

Counts = Mapping[str, float]
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def divisors(
    counts: Sequence[Sequence[Counts]], mode: Literal["global", "micro_batch", "process"], rank: int = 0
) -> list[dict[str, float]]:
    """What the losses of each accumulation step are divided by, so that the sum over everything is the loss.

    Args:
        counts: per process, per accumulation step, the `Batch.normalisers` of that micro-batch.
        mode: the recipe's `normalise`.
        rank: of this process; only "process" asks.

    Returns:
        Per accumulation step, divisor by normaliser name; the same on every process but with "process".
    """
    world, accumulation = len(counts), len(counts[0])
    per_step = [_sum([process[j] for process in counts]) for j in range(accumulation)]
    if mode == "global":
        whole = {name: max(count, 1.0) for name, count in _sum(per_step).items()}
        return [whole] * accumulation
    if mode == "process":
        own = zip(counts[rank], per_step, strict=True)
        per_step = [{name: float(mine.get(name, 0.0)) * world for name in step} for mine, step in own]
    return [{name: max(n / world, 1.0) * world * accumulation for name, n in step.items()} for step in per_step]


def _sum(parts: Sequence[Counts]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0.0) + float(count)
    return dict(sorted(total.items()))


class Objective(nn.Module):
    """The model, run at the recipe's precision, with its losses normalised and added.

    One scalar goes out whatever losses a batch has, so that all processes look alike to ZeRO-3.
    """

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.dtype = DTYPES[precision]
        self.parts: dict[str, Tensor] = {}
        """Each normalised loss of the last micro-batch, detached."""

    def forward(self, batch: Batch, divisors: Mapping[str, float], anchor: Tensor | None = None) -> Tensor:
        """The scalar to differentiate.

        Args:
            batch: one micro-batch on the model's device.
            divisors: from `divisors` for this micro-batch.
            anchor: a zero that requires a gradient; keeps the graph alive when nothing in the batch can be learnt.
        """
        losses: Losses = self._run(batch)
        parts = {name: loss.total.float() / _divisor(divisors, loss.per, name) for name, loss in losses.items()}
        self.parts = {name: part.detach() for name, part in parts.items()}
        terms = [*parts.values(), *([anchor] if anchor is not None else [])]
        return torch.stack(terms).sum() if terms else next(self.model.parameters()).new_zeros(())

    def _run(self, batch: Batch) -> Losses:
        kind = next(self.model.parameters()).device.type
        with torch.autocast(kind, dtype=self.dtype) if self.dtype else contextlib.nullcontext():
            return checked(self.model(batch), self.model)


def checked(losses: Any, model: nn.Module) -> Losses:
    """What `forward` returned, if it is what the engine and the battery take.

    Raises:
        PluginError: it is something else.
    """
    if isinstance(losses, Losses):
        return losses
    raise PluginError(
        f"forward returns {type(losses).__name__}, not Losses",
        where=f"{type(model).__module__}.{type(model).__name__}.forward",
        do='return mmcore.contract.values.Losses(name=Loss(total, "objects")): sums, each with what divides it',
    )


def _divisor(divisors: Mapping[str, float], per: str, loss: str) -> float:
    if per not in divisors:
        raise ShapeError(
            f"the loss {loss!r} is per {per!r}, which the batch does not count",
            known=divisors,
            do="have the collator put it into Batch.normalisers; a batch without any counts 0",
        )
    return divisors[per]
