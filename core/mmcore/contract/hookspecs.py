"""The four hooks, in the order of a run. A plugin implements them with `@mmcore.hookimpl`; this is the whole contract.

An implementation may take fewer arguments than its spec, in any order. Heavy imports belong inside the hook bodies:
importing a plugin must not import torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.protocols import DataContext, Datasets
    from mmcore.contract.recipe import Stage
    from mmcore.runs.run import FinishedRun

hookspec = pluggy.HookspecMarker("mmcore")
hookimpl = pluggy.HookimplMarker("mmcore")


@hookspec(firstresult=True)
def stage_params(variant: str) -> "Sequence[Stage] | None":  # type: ignore[empty-body]
    """Every stage of the family for one published size, in training order.

    Called first, before torch is imported. Only the chosen family answers; extensions may wrap it
    (`@hookimpl(wrapper=True)`) to change a recipe.

    Args:
        variant: one of the family's `VARIANTS`.
    """


@hookspec(firstresult=True)
def build_model(stage: "Stage", variant: str) -> "nn.Module | None":  # type: ignore[empty-body]
    """The model of one stage, on the CPU with freshly initialised weights, or on meta.

    Called once. The module satisfies the model contract (`mmcore.contract.model`): `forward(batch) -> Losses` and
    `predict(batch) -> list[Prediction]`. The core fills in initial weights, freezes and moves it afterwards.
    """


@hookspec
def build_datasets(stage: "Stage", split: str, context: "DataContext") -> "Datasets | None":  # type: ignore[empty-body]
    """Data sources by the names that `stage.data.sources` or `stage.validation` use, with collator and evaluators.

    Called once per split ("train" or "val"). The answers of the family and of all extensions are joined; two plugins
    that give the same source are an error.
    """


@hookspec
def post_train(run: "FinishedRun") -> None:
    """After the last step and the last save, on the first process: merge, average, convert, export.

    Called for the family first, then for the extensions in the order of --with.
    """
