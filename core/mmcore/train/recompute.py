"""Activations computed again in the backward pass instead of kept (Chen et al. 2016), for the blocks of any model.

A block becomes an instance of a subclass of its own class, so its names, its copies and `isinstance` stay what they
were.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmcore.contract.model import Model
from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError


def recompute(model: Model, stage: Stage) -> None:
    """Have every block that the model names keep only its inputs for the backward pass.

    Raises:
        RecipeError: the model names none.
    """
    blocks = model.checkpoint_blocks()
    if not blocks:
        raise RecipeError(
            f"{type(model).__name__} names no blocks whose activations can be recomputed",
            where=f"stage {stage.number} {stage.name}, gradient_checkpointing",
            do="take gradient_checkpointing out of the recipe, or write `checkpoint_blocks` of the model",
        )
    for block in blocks:
        recompute_block(block)


def recompute_block(block: nn.Module) -> None:
    """The same for one module; a second time changes nothing."""
    if not isinstance(block, _Recomputed):
        block.__class__ = _recomputed(type(block))


class _Recomputed:
    """Marks the classes made here."""


@cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.__call__(self, *args, **kwargs)
        # The whole call and not `forward` alone: hooks that gather sharded weights must run the second time too.
        return checkpoint(kind.__call__, self, *args, use_reentrant=False, **kwargs)

    return type(kind.__name__, (_Recomputed, kind), {"__call__": call, "__module__": kind.__module__})
