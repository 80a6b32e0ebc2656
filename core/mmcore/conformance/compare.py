"""Whether two of a thing are equal: states of models, batches with tensors inside."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def differences(first: "Mapping[str, torch.Tensor]", second: "Mapping[str, torch.Tensor]") -> list[str]:
    """Names of tensors that one state lacks or that differ."""
    import torch

    names = sorted(set(first) ^ set(second))
    return names + [n for n in first if n in second and not torch.equal(first[n].cpu(), second[n].cpu())]


def equal(first: Any, second: Any) -> bool:
    """Whether two values of batches are equal, tensors included."""

    import torch

    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = dataclasses.fields(first)
        return type(first) is type(second) and all(
            equal(getattr(first, f.name), getattr(second, f.name)) for f in fields
        )
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)
