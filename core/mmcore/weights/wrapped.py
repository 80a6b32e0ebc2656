"""Names of tensors without what trainers wrap around a model: DataParallel, torch.compile, FSDP, Lightning.

module.*                                    DataParallel and DistributedDataParallel: around the whole
*_orig_mod.*                                torch.compile: around the whole or any part
*_fsdp_wrapped_module.*                     FSDP, and *_checkpoint_wrapped_module.* around recomputed parts
model.model.*, model.lm_head.*              a trainer that holds a language model as its `model`
"""

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

_ANYWHERE = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_INSIDE = ("model.model.", "model.lm_head.")
"""Beginnings that only a language model inside something called `model` has."""


def without_wrappers(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The same tensors under the names that the model itself gives them.

    >>> list(without_wrappers({"module._orig_mod.stem.weight": 1, "module._orig_mod.head._orig_mod.bias": 2}))
    ['stem.weight', 'head.bias']
    """
    found = {_ANYWHERE.sub("", name): value for name, value in tensors.items()}
    if len(found) < len(tensors):  # two names would become one: they are no wrappers
        found = dict(tensors)
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    if any(name.startswith(_INSIDE) for name in found):
        found = without_level(found, "model.")
    return found


def without_level(tensors: Mapping[str, Value], level: str) -> dict[str, Value]:
    """Without a first level of the names, where all of them have it."""
    if not all(name.startswith(level) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(level): value for name, value in tensors.items()}
