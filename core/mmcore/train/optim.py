"""Which parameters train, at which rate: the recipe's patterns turned into a few large parameter groups.

Groups hold all parameters with the same rate and decay, so that the fused and the foreach kernels see long lists
instead of one group per parameter.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmcore.contract.recipe import Stage, matches, matches_any
from mmcore.errors import RecipeError, suggest
from mmcore.train.lora import is_adapted, is_adapter


def freeze(model: nn.Module, stage: Stage) -> None:
    """Set `requires_grad` of every parameter as the stage's `trainable` and `frozen` patterns say.

    What the family built frozen stays so under `*`; only a pattern that names it trains it. A parameter with several
    names (tied weights) is frozen when any of them is. Of a model with adapters all adapters train, and beside them
    only parts that a pattern names and that hold no adapter themselves.

    Raises:
        RecipeError: a pattern matches no parameter, or nothing is left to train.
    """
    names = parameter_names(model)
    _check_patterns(stage.trainable, names.values(), "trainable")
    _check_patterns(stage.frozen, names.values(), "frozen")
    explicit = [pattern for pattern in stage.trainable if pattern != "*"]
    if stage.lora is not None:
        adapted = [name for aliases in names.values() for name in aliases if is_adapted(name)]
        explicit = [pattern for pattern in explicit if not any(matches(pattern, name) for name in adapted)]
    for parameter, aliases in names.items():
        if stage.lora is not None and any(is_adapter(name) for name in aliases):
            parameter.requires_grad_(True)
            continue
        wanted = any(matches_any(explicit, name) for name in aliases)
        if stage.lora is None:
            wanted |= parameter.requires_grad and any(matches_any(stage.trainable, name) for name in aliases)
        parameter.requires_grad_(wanted and not any(matches_any(stage.frozen, name) for name in aliases))
    if not any(parameter.requires_grad for parameter in names):
        raise RecipeError(
            "no parameter is left to train",
            where=f"stage {stage.number} {stage.name}, trainable {stage.trainable} without frozen {stage.frozen}",
            do="name at least one part of the model under trainable",
        )


def parameter_groups(model: nn.Module, stage: Stage) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay, in the order in which the model names them.

    Returns:
        Groups for `torch.optim.AdamW`: `params`, `lr` (at schedule factor 1), `weight_decay`, and for people `names`
        and `multiplier` (the product of all multipliers that match).

    Raises:
        RecipeError: a pattern of `optim.multipliers` or `optim.no_decay` matches no parameter.
    """
    optim = stage.optim
    names = parameter_names(model)
    _check_patterns(optim.multipliers, names.values(), "optim.multipliers")
    _check_patterns(optim.no_decay, names.values(), "optim.no_decay")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter, aliases in names.items():
        if not parameter.requires_grad:
            continue
        multiplier = 1.0
        for pattern, factor in optim.multipliers.items():
            if any(matches(pattern, name) for name in aliases):
                multiplier *= factor
        decay = 0.0 if any(matches_any(optim.no_decay, name) for name in aliases) else optim.weight_decay
        empty = {
            "lr": optim.lr * multiplier,
            "weight_decay": decay,
            "multiplier": multiplier,
            "names": [],
            "params": [],
        }
        group = groups.setdefault((multiplier, decay), empty)
        group["names"].append(aliases[0])
        group["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], stage: Stage) -> torch.optim.AdamW:
    """AdamW over these groups: the fused kernel on a GPU, the foreach kernels on a CPU."""
    optim = stage.optim
    kinds = {parameter.device.type for group in groups for parameter in group["params"]}
    speed = {"fused": True} if kinds == {"cuda"} else {"foreach": True}
    plain = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]
    return torch.optim.AdamW(plain, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=0.0, **speed)


def parameter_names(model: nn.Module) -> dict[nn.Parameter, tuple[str, ...]]:
    """Every parameter once, with all names that lead to it; tied weights have several."""
    names: dict[nn.Parameter, tuple[str, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter] = (*names.get(parameter, ()), name)
    return names


def _check_patterns(patterns: Iterable[str], names: Iterable[tuple[str, ...]], key: str) -> None:
    flat = [name for aliases in names for name in aliases]
    for pattern in patterns:
        if not any(matches(pattern, name) for name in flat):
            modules = {name.rsplit(".", depth)[0] for name in flat for depth in range(name.count(".") + 1)}
            raise RecipeError(
                f"the pattern {pattern!r} matches no parameter of the model",
                where=key,
                known=sorted({name.split(".")[0] for name in flat}),
                do=suggest(pattern, sorted(modules), "choose a part of the model, or a wildcard such as '*.bias'"),
            )
