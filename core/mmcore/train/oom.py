"""Out of memory, as a message: which layer, which samples, and what helps most."""

import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import nn

from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch
from mmcore.errors import OutOfMemoryError

_HOST = ("can't allocate memory", "not enough memory", "cannot allocate memory")
"""Words of torch's allocator on the CPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _HOST)


@contextmanager
def explaining_memory(
    model: nn.Module, stage: Stage, batches: Sequence[tuple[int, Batch]], step: int, processes: int = 1
) -> Generator[None]:
    """Turn an allocation that failed in a step into a message.

    Raises:
        OutOfMemoryError: in place of the allocator's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        samples = "; ".join(
            f"micro-batch {m}, source {batch.source}, records {', '.join(str(draw.position) for draw in batch.draws)}"
            for m, batch in batches
        )
        raise OutOfMemoryError(
            f"out of memory in step {step}, {layer_of(error.__traceback__, model)}: {str(error).splitlines()[0]:.200}",
            where=samples,
            known=_used(),
            do="; ".join(remedies(stage, processes)),
        ) from error


def layer_of(trace: TracebackType | None, model: nn.Module) -> str:
    """The innermost of the model's modules whose forward the error came out of."""
    names = {id(module): name for name, module in model.named_modules()}
    found = "outside the model's layers"
    for frame, _ in traceback.walk_tb(trace):
        own = frame.f_locals.get("self")
        if isinstance(own, nn.Module) and names.get(id(own)):
            found = f"in layer {names[id(own)]} ({type(own).__name__})"
        elif frame.f_code.co_name == "backward":
            found = "in the backward pass"
        elif (
            frame.f_code.co_name == "step" and "optimizer" in frame.f_locals.get("self", "").__class__.__name__.lower()
        ):
            found = "in the optimiser's first update"
    return found


def remedies(stage: Stage, processes: int) -> list[str]:
    """What helps, the most useful first; what is done already is left out."""
    found = []
    if stage.micro_batch > 1:
        found.append(
            f"--set micro_batch={stage.micro_batch // 2} (global_batch stays {stage.global_batch}: the same updates)"
        )
    if not stage.gradient_checkpointing:
        found.append("--set gradient_checkpointing=true (a third more time, far fewer activations)")
    if stage.precision == "fp32":
        found.append("--set precision=bf16")
    if processes == 1:
        found.append("more processes with --nproc, which share the optimiser's state")
    elif stage.zero < 3:
        found.append(f"--set zero={stage.zero + 1}")
    return [*found, "smaller images in data.transform, or a shorter max_length", "`mmcore plan` for where it goes"]


def _used() -> str | None:
    if not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    sizes = (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated(), free, total)
    return "{:.1f} GiB in tensors, at most {:.1f} GiB; {:.1f} of {:.1f} GiB free".format(*(s / 2**30 for s in sizes))
