"""No silent entry: what a recipe says and nobody would act on is refused before anything is trained."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mmcore.base.figures import LOSS
from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError, suggest

if TYPE_CHECKING:
    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets


def check_model(model: "Model", stage: Stage, plugin: str) -> None:
    """Loss weights are those of losses that the model has, and its longest sequence is the recipe's.

    Args:
        model: as the plugin built it.
        stage: its recipe.
        plugin: for messages.

    Raises:
        RecipeError: a loss does not exist, or the model does not go by an entry.
    """
    weights = model.loss_weights
    for name, weight in stage.loss_weights.items():
        where = f"stage {stage.number} {stage.name}, loss_weights.{name}"
        if name not in weights:
            known = list(weights) or "none"
            raise RecipeError(
                f"{plugin} has no loss {name!r} to weigh",
                where=where,
                known=known,
                do=suggest(name, weights, "leave it out, or choose one of these"),
            )
        _must_follow(plugin, weights[name], weight, where)
    if stage.max_length is not None:
        where = f"stage {stage.number} {stage.name}, max_length"
        _must_follow(plugin, model.max_length, stage.max_length, where)


def _must_follow(plugin: str, has: Any, asked: Any, where: str) -> None:
    if has != asked:
        raise RecipeError(
            f"{plugin} does not go by this entry"
            + ("" if has is None else f": the recipe says {asked}, its model has {has}"),
            where=where,
            do="leave it out of the recipe",
        )


def check_wordings(stage: Stage, used: bool, plugin: str) -> None:
    """`data.templates` replaces wordings of this run.

    Args:
        stage: the recipe.
        used: whether any of its sources draws a wording from a bank.
        plugin: for messages.

    Raises:
        RecipeError: no source does.
    """
    if stage.data.templates is not None and not used:
        raise RecipeError(
            f"no source of this run has questions or answers that {plugin} words, so nothing can be replaced",
            where=f"stage {stage.number} {stage.name}, data.templates",
            do="leave it out of the recipe",
        )


def check_metrics(
    stage: Stage, validation: "Datasets | None", only: Sequence[str] | None = None, with_loss: Collection[str] = ()
) -> str | None:
    """Metrics that a recipe names are given by the evaluators.

    Args:
        stage: the recipe.
        validation: what will be evaluated; None is nothing.
        only: the sources to which the run is narrowed.
        with_loss: the sets of which the loss is measured.

    Returns:
        Why there will be no best checkpoint although the recipe asks for one: the run leaves its set out.
    Raises:
        RecipeError: an evaluator has no such metric, or no validation set of the recipe is the best metric's.
    """
    made = {name: make().metric_names for name, make in validation.evaluators.items()} if validation else {}
    given = {name: (*names, LOSS) if name in with_loss else tuple(names) for name, names in made.items()}
    for name, entry in stage.validation.items():
        for metric in entry.metrics if name in given else ():
            _refuse_unknown(metric, given[name], f"validation.{name}.metrics")
    best = stage.best_metric
    if best is None:
        return None
    name, _, metric = best.partition("/")
    if name not in stage.validation:
        known = [f"{one}/{metric}" for one, metrics in given.items() for metric in metrics]
        raise RecipeError(
            f"best_metric {best!r} belongs to no validation set of the recipe",
            where="best_metric",
            known=known or list(stage.validation) or "none",
            do=suggest(best, known, "name one of these, or --set best_metric=null"),
        )
    if name in given:
        _refuse_unknown(metric, given[name], "best_metric")
        return None
    return f"no best checkpoint is kept: {best} is not evaluated with --sources {','.join(only or ())}"


FEW_STEPS = 3
"""A pass over the data in fewer optimiser steps is told."""


def few_steps_a_pass(stage: Stage, records: int) -> list[str]:
    """A sentence when the global batch holds a large part of all records."""
    passes = records / stage.global_batch
    if passes >= FEW_STEPS:
        return []
    return [
        f"one pass over the {records} records takes {passes:.1f} steps of {stage.global_batch} samples;"
        " a smaller global_batch makes more of them"
    ]


def _refuse_unknown(metric: str, known: Sequence[str], where: str) -> None:
    if not any(fnmatchcase(metric, pattern) for pattern in known):
        raise RecipeError(
            f"the evaluation gives no {metric!r}",
            where=where,
            known=known,
            do=suggest(metric, known, "choose one of these"),
        )
