"""The hooks, in the order of a run. A plugin implements them with `@mmcore.hookimpl`; this is the whole contract.

A family answers `family`, `stage_params`, `build_model` and `build_datasets`; all others are for those who have
something to say. An implementation may take fewer arguments than its spec, in any order. Heavy imports belong inside
the hook bodies: importing a plugin must not import torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmcore.contract.family import Family
    from mmcore.contract.model import Model
    from mmcore.contract.protocols import DataContext, Datasets, Metric
    from mmcore.contract.recipe import Source, Stage
    from mmcore.contract.run import FinishedRun
    from mmcore.data.cache.features import CacheJob
    from mmcore.data.formats.format import Format
    from mmcore.language.conversation import Template

hookspec = pluggy.HookspecMarker("mmcore")
hookimpl = pluggy.HookimplMarker("mmcore")


# Before anything is built: no implementation may import torch


@hookspec(firstresult=True)
def family() -> "Family | None":  # type: ignore[empty-body]
    """Who the family is: name, title, variants.

    Called when plugins are listed and when a run is resolved. Families answer it, extensions do not.
    """


@hookspec(firstresult=True)
def stage_params(variant: str) -> "Sequence[Stage] | None":  # type: ignore[empty-body]
    """Every stage of the family for one published size, in training order.

    Called first, before torch is imported. Only the chosen family answers; extensions may wrap it
    (`@hookimpl(wrapper=True)`) to change a recipe.

    Args:
        variant: one of `Family.variants`.
    """


@hookspec(firstresult=True)
def listed_sources(path: Path, root: Path, stage: "Stage") -> "Mapping[str, Source] | None":  # type: ignore[empty-body]
    """The training sources that a list file names: `--set data.list=FILE`.

    Called when a recipe is resolved and has one; what it answers takes the place of `data.sources`. May not import
    torch. Where no plugin answers, such a file is refused.

    Args:
        path: the file.
        root: the data root, below which its lines may name files.
        stage: for which they are; says whether sources have a `group`.
    """


# What a plugin adds to the core's lists: the answers of the family and of all extensions are joined


@hookspec
def annotation_formats() -> "Sequence[Format]":  # type: ignore[empty-body]
    """Annotation formats beside the core's, by which `Source.format` and own data may name them.

    Called before data sets are built. Two formats of one name are an error.
    """


@hookspec
def conversation_templates() -> "Mapping[str, Template]":  # type: ignore[empty-body]
    """Ways to write a conversation beside those of `mmcore.language.conversation_templates`, by name.

    Called before a model or data sets are built. A name that the core has already is an error.
    """


@hookspec
def metrics() -> "Mapping[str, Metric]":  # type: ignore[empty-body]
    """Figures beside those that evaluators give, by the name under which `Validation.metrics` asks for them.

    Called when validation sets are built. A metric is a function of an evaluator's items; it is computed on the sets
    whose recipe names it, and may be their `best_metric`.
    """


# The run


@hookspec
def write_demo(root: Path) -> None:
    """Write the sample data of --demo below `root`, in the real formats; whatever is there already stays.

    Called before data sets are built, for the family and for all extensions. Without an answer of the family the core
    writes its own scenes.
    """


@hookspec
def plan_notes(stage: "Stage", context: "DataContext") -> Sequence[str]:  # type: ignore[empty-body]
    """Lines that `mmcore plan` adds to the recipe, such as which cached features a run would read.

    Called by `mmcore plan`; loads and asks nothing.
    """


@hookspec(firstresult=True)
def data_cache(stage: "Stage", context: "DataContext", dtype: str | None) -> "CacheJob | None":  # type: ignore[empty-body]
    """What `mmcore data cache` computes once per picture.

    Args:
        stage: whose pictures are meant.
        context: where the data lie.
        dtype: how values are kept; None is the family's own choice.
    """


@hookspec(firstresult=True)
def build_model(stage: "Stage", variant: str) -> "Model | None":  # type: ignore[empty-body]
    """The model of one stage, on the CPU with freshly initialised weights, or on meta.

    Called once. Returns a `mmcore.Model`; the core fills in initial weights, adds adapters, freezes and moves it
    afterwards.
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
