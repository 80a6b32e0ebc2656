"""A model's values, one tensor after the other: from a file into the place, with nothing whole beside it.

A skeleton (`mmcore.weights.skeleton`) gets real parameters here; a model that has values already gets others. How
values are kept is said once, by whoever starts a run, with `filling`: frozen matrices in the dtype they are multiplied
in, and under ZeRO-3 cut into parts as soon as each is there.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmcore.errors import WeightsError

LARGE_TABLE = 1 << 20
"""Embeddings with fewer numbers stay in float32: they save nothing, and some (positions) are read past their module."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How filled parameters are kept."""

    dtype: torch.dtype | None = None
    """What autocast multiplies in. A frozen matrix whose values this dtype holds exactly, as those of a published file
    in it, is kept in it; autocast then has nothing to cast, and the results are the same, bit for bit."""
    part: Callable[[nn.Parameter], None] | None = None
    """Called with every parameter that got its value, to keep only this process's part of it."""
    overwrite: Callable[[nn.Parameter, Tensor], None] | None = None
    """Puts another value into a parameter that `part` has cut."""


_KEEPING: ContextVar[Keeping] = ContextVar("keeping", default=Keeping())  # noqa: B039 frozen


@contextmanager
def filling(keeping: Keeping) -> Generator[None, None, None]:
    """Inside, `fill` keeps values this way."""
    token = _KEEPING.set(keeping)
    try:
        yield
    finally:
        _KEEPING.reset(token)


class ExactEmbedding(nn.Embedding):
    """A table in half precision whose rows come out in float32, as those of a float32 table with the same values."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


class ExactLinear(nn.Linear):
    """A matrix in half precision; where autocast is off it is widened to its input, as a float32 one would be there."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_autocast_enabled(input.device.type):
            return linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return linear(input, self.weight.to(input.dtype), bias)


_EXACT: dict[type[nn.Module], type[nn.Module]] = {nn.Embedding: ExactEmbedding, nn.Linear: ExactLinear}
"""What a module becomes when its weights are kept in half precision: same parameters, same results."""


@torch.no_grad()
def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put values under names of the model's state dict; names that `state` lacks are left alone.

    Args:
        model: a skeleton, a model, or something between.
        state: tensors may be mapped from a file; each is read when its turn comes.

    Raises:
        WeightsError: a name or a shape is not the model's.
    """
    homes = _homes(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    done: dict[nn.Parameter, nn.Parameter] = {}
    for name in state:
        old = parameters.get(name)
        target = old if old is not None else buffers.get(name)
        if target is None:
            raise WeightsError(f"the model has no tensor {name!r}")
        if old is not None and old in done:  # tied weights under their second name
            continue
        value = state[name]
        shape = tuple(getattr(target, "ds_shape", target.shape))
        if tuple(value.shape) != shape:
            raise WeightsError(f"{name} is {tuple(value.shape)} in the file and {shape} in the model")
        if old is None:
            target.copy_(value)
        else:
            done[old] = _put(old, value, homes[old])


def unfilled(model: nn.Module) -> list[str]:
    """Names of parameters that have no value yet."""
    return [name for name, parameter in model.named_parameters() if parameter.is_meta]


Homes = list[tuple[nn.Module, str]]
"""Modules that hold one parameter, and what they call it."""


def _homes(model: nn.Module) -> dict[nn.Parameter, Homes]:
    homes: dict[nn.Parameter, Homes] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage] the ones with None
            if parameter is not None:
                homes.setdefault(parameter, []).append((module, name))
    return homes


def _put(old: nn.Parameter, value: Tensor, homes: Homes) -> nn.Parameter:
    keeping = _KEEPING.get()
    if hasattr(old, "ds_id"):
        assert keeping.overwrite is not None
        keeping.overwrite(old, value)
        return old
    dtype = _dtype(old, value, homes, keeping.dtype)
    if old.is_meta or old.dtype != dtype:
        new = nn.Parameter(value.to("cpu" if old.is_meta else old.device, dtype, copy=True), old.requires_grad)
        vars(new).update(vars(old))
        for module, name in homes:
            module._parameters[name] = new  # pyright: ignore[reportPrivateUsage] past the hooks and checks of setattr
            if dtype != torch.float32:
                module.__class__ = _EXACT.get(type(module), type(module))
    else:
        new = old
        new.copy_(value)
    if keeping.part is not None:
        keeping.part(new)
    return new


def _dtype(old: nn.Parameter, value: Tensor, homes: Homes, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype a parameter is kept in: its own, or the one it is multiplied in if that changes no bit."""
    if wanted is None or old.requires_grad or not old.is_floating_point() or old.dtype != torch.float32:
        return old.dtype
    if not all(_is_matrix(module, old) for module, _ in homes):
        return old.dtype
    exact = value.dtype == wanted or torch.equal(value.to(wanted).to(value.dtype), value)
    return wanted if exact else old.dtype


def _is_matrix(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether autocast would cast this parameter anyway, or its rows can be cast back as they are looked up.

    A subclass may read its weight in another way; it says `takes_half = True` where it does not mind.
    """
    if type(module) in (nn.Embedding, ExactEmbedding):
        return parameter.numel() >= LARGE_TABLE
    return type(module) in (nn.Linear, ExactLinear) or getattr(module, "takes_half", False)


def kept_bytes(model: nn.Module, dtype: torch.dtype | None) -> int:
    """Bytes of a model's parameters if frozen matrices are kept in `dtype`, as those of a file in it are."""
    total = 0
    for parameter, homes in _homes(model).items():
        half = dtype is not None and not parameter.requires_grad and all(_is_matrix(m, parameter) for m, _ in homes)
        total += parameter.numel() * (dtype.itemsize if half and dtype is not None else parameter.itemsize)
    return total


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Frozen matrices that were kept in half precision back to float32, one by one; the values are the same."""
    plain = {exact: usual for usual, exact in _EXACT.items()}
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16) and not parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))
