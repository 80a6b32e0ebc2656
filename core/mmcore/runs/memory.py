"""The memory a run will need on each process: weights, optimiser state, and one step followed on meta.

Activations and gradients are those of the largest of the run's first micro-batches (`mmcore.train.trace`). ZeRO divides
weights (stage 3) and optimiser state (1 and up); a step's gradients are whole on each process until they are reduced,
in any stage. What libraries and the allocator keep for themselves is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcore.contract.recipe import Stage
from mmcore.errors import MmcoreError
from mmcore.runs.build import adapt, attach, build_model, build_order
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.contract.values import Batch

LOOKED_AT = 4
"""Micro-batches at the start of the run of which the largest is followed."""


@dataclass(slots=True)
class Memory:
    """Bytes on one process."""

    weights: int
    optimiser: int
    step: int | None = None
    """Most that a step adds: activations, gradients and what lies between; None where no batch could be followed."""
    gradients: int = 0
    """Of the trained parameters; part of `step`."""
    by_module: dict[str, int] = field(default_factory=dict)
    """Of `step`, what each part of the model keeps for the backward pass."""
    note: str = ""
    """What the step was followed with, or why it was not."""

    @property
    def peak(self) -> int:
        """Most that is needed at once."""
        return self.weights + self.optimiser + max(self.step or 0, self.gradients)


def plan_memory(
    model: "Model", family: OpenedPlugin, settings: Settings, datasets: "Datasets | None", processes: int
) -> Memory:
    """What training takes on each process.

    Args:
        model: a skeleton with adapters, frozen as the stage says.
        family: builds another skeleton to follow a step with.
        settings: of the run.
        datasets: of the run; None where they cannot be opened.
        processes: how many train.
    """
    stage = settings.stage
    memory = certain_memory(model, stage, from_files=_from_files(settings), processes=processes)
    if datasets is None:
        memory.note = "activations are not counted: they need a batch, and the data cannot be opened"
        return memory
    try:
        batch = _largest_batch(settings, datasets)
        _follow(memory, family, settings, batch)
    except MmcoreError as error:
        memory.note = f"activations are not counted: {error.what}"
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # torch's, for what zeros do not allow
        memory.note = f"activations are not counted: {stage.name} cannot be followed without values ({error})"
    return memory


def certain_memory(model: "nn.Module", stage: Stage, *, from_files: bool, processes: int) -> Memory:
    """Weights, gradients and AdamW's two moments.

    Args:
        model: frozen as the stage says.
        stage: precision and ZeRO stage.
        from_files: whether weights come from files; frozen matrices then count in the run's precision, in which
            language models are published.
        processes: how many train.
    """
    from mmcore.train.objective import DTYPES
    from mmcore.weights.fill import kept_bytes

    dtype = DTYPES[stage.precision] if from_files else None
    weights = kept_bytes(model, dtype) + sum(buffer.nbytes for buffer in model.buffers())
    trained = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # Beside the moments, DeepSpeed keeps the trained weights once more, flat, to update them.
    state = 2 * trained if processes == 1 or not stage.zero else 3 * trained // processes
    return Memory(weights // (processes if stage.zero == 3 else 1), state, gradients=trained)


def _from_files(settings: Settings) -> bool:
    init = settings.stage.init
    return "random" not in settings.init and bool(settings.init or init.published or init.stage)


def _largest_batch(settings: Settings, datasets: "Datasets") -> "Batch":
    from mmcore.contract.values.batch import map_tensors
    from mmcore.data.loader import Loader

    def size(batch: "Batch") -> int:
        sizes: list[int] = []
        map_tensors(batch.to("cpu"), lambda tensor: sizes.append(tensor.nbytes) or tensor)
        return sum(sizes)

    loader = Loader(datasets, build_order(settings, datasets), num_workers=0, policy=settings.stage.data.bad_samples)
    return max((batch for _, batch in loader.iterate(0, LOOKED_AT)), key=size)


def _follow(memory: Memory, family: OpenedPlugin, settings: Settings, batch: "Batch") -> None:
    """Enter a step with this batch into the memory."""
    from mmcore.train.objective import DTYPES, Objective, divisors
    from mmcore.train.optim import freeze
    from mmcore.train.trace import trace_step
    from mmcore.weights.skeleton import skeleton

    stage = settings.stage
    with skeleton():
        model = build_model(family, settings)
        adapt(model, settings)
    attach(model, settings)
    freeze(model, stage)
    objective = Objective(model.train(), stage.precision)
    (divide_by,) = divisors([[batch.normalisers]], stage.normalise)
    traced = trace_step(model, batch, lambda held: objective(held, divide_by), DTYPES[stage.precision])
    # With accumulation, gradients of earlier micro-batches are there from the beginning.
    accumulated = traced.gradients if stage.global_batch > stage.micro_batch else 0
    memory.step = traced.peak + accumulated
    memory.by_module = _of_parts(traced.by_module)
    memory.note = f"activations of a micro-batch of {len(batch)} from {batch.source}, followed on meta"


def _of_parts(by_module: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sorted(by_module.items(), key=lambda entry: -entry[1]) if size > 0}
