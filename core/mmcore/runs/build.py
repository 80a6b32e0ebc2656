"""The parts of a run, each built from its settings: sample data, data sets, order, model, device, number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base import collector
from mmcore.base.hashing import mix, name_key
from mmcore.contract.recipe import Stage
from mmcore.errors import DataError, MissingDataError, PluginError, UsageError
from mmcore.runs.checks import check_model, check_wordings
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings, active_sources, cache_folder

if TYPE_CHECKING:
    import torch

    from mmcore.contract.model import Model
    from mmcore.contract.protocols import DataContext, Datasets, Order


def build_model(family: OpenedPlugin, settings: Settings) -> "Model":
    """The family's module for these settings, seeded, with freshly initialised weights.

    Inside `mmcore.weights.skeleton.skeleton` its parameters are on meta: shapes and names without memory.

    Raises:
        PluginError: the hook fails or returns something that is not a model.
    """
    import torch

    from mmcore.contract.model import Model, missing_methods
    from mmcore.train.recompute import recompute

    _learn_templates(family)
    torch.manual_seed(settings.seed)
    model = family.call("build_model", stage=settings.stage, variant=settings.variant)
    if not isinstance(model, Model):
        raise PluginError(
            f"build_model returned {_kind(model)}, not a mmcore.Model",
            where=f"plugin {family.plugin.label}",
            do="derive the class from mmcore.Model instead of torch.nn.Module; docs/hooks.md has its methods",
        )
    if missing := missing_methods(model):
        raise PluginError(
            f"{type(model).__name__} does not implement {' and '.join(missing)}",
            where=f"plugin {family.plugin.label}",
            do="every model has these methods; docs/hooks.md has them all",
        )
    check_model(model, settings.stage, family.plugin.name)
    if settings.stage.gradient_checkpointing:
        recompute(model, settings.stage)
    collector.work()  # a model brings the last of the large imports
    return model


def _learn_templates(family: OpenedPlugin) -> None:
    """Have the core know the conversation templates that plugins bring."""
    if family.implements("conversation_templates"):
        from mmcore.language.conversation_templates import add_templates

        add_templates(family.templates())


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def adapt(model: "Model", settings: Settings) -> None:
    """Add the recipe's adapters to a model that has its initial weights, always the same at the same seed.

    Raises:
        RecipeError: a target names no layer that can be adapted.
    """
    if settings.stage.lora is not None:
        import torch

        from mmcore.train.lora import add_lora

        torch.manual_seed(mix(settings.seed, name_key("lora")) >> 1)
        add_lora(model, settings.stage.lora, model.lora_modules())


def attach(model: "Model", settings: Settings, folder: Path | None = None) -> None:
    """Tell a model that wants to know where its run and data lie: it finds there what is no weight, as a tokenizer.

    Args:
        model: any family's.
        settings: of the run.
        folder: of the run, or of the export that was opened.
    """
    model.attach(settings.stage, _context(settings), folder)


def data_context(settings: Settings) -> "DataContext":
    """Where the data of this run lies; the folder must be there."""
    root = Path(settings.data)
    if not root.is_dir():
        raise MissingDataError(
            f"there is no data folder {root}",
            where="--data or $MMCORE_DATA",
            do="give the folder with --data, or try the built-in sample data with --demo",
        )
    return _context(settings)


def _context(settings: Settings) -> "DataContext":
    from mmcore.contract.protocols import DataContext

    return DataContext(
        root=Path(settings.data),
        cache=cache_folder(),
        variant=settings.variant,
        seed=settings.seed,
        only=settings.only,
    )


def prepare_demo(family: OpenedPlugin, settings: Settings) -> None:
    """Write the sample data of --demo where the settings expect it; returns at once when it is there."""
    if settings.demo:
        family.write_demo(Path(settings.data))


def build_datasets(family: OpenedPlugin, settings: Settings, split: str) -> "Datasets":
    """The joined answers of the family and its extensions for one split.

    Raises:
        PluginError: two plugins give the same source, or one returns something else than Datasets.
        DataError: a source the recipe draws from is given by nobody.
    """
    from mmcore.contract.protocols import Datasets, DataSource

    _learn_templates(family)
    context = replace(data_context(settings), formats=family.formats())
    answers = family.call("build_datasets", stage=settings.stage, split=split, context=context)
    parts = [answer for answer in answers if answer is not None]
    for part in parts:
        if not isinstance(part, Datasets):
            raise PluginError(
                f"build_datasets returned {type(part).__name__}, not mmcore.Datasets",
                where=f"plugin {family.plugin.label} or one of {', '.join(settings.extensions) or 'no extensions'}",
            )
    joined = Datasets(
        sources=_join([part.sources for part in parts], family),
        collate=_join([part.collate for part in parts], family),
        evaluators=_with_metrics(_join([part.evaluators for part in parts], family), family, settings.stage),
        wordings={name: bank for part in parts for name, bank in part.wordings.items()},
    )
    for name, source in joined.sources.items():
        if not isinstance(source, DataSource):
            raise PluginError(
                f"the data source {name!r} is a {type(source).__name__}, not a mmcore.DataSource",
                where=f"plugin {family.plugin.label} or one of {', '.join(settings.extensions) or 'no extensions'}",
                do="derive its class from mmcore.DataSource, which has defaults for what it leaves out",
            )
    if split == "train":
        check_wordings(settings.stage, any(part.wordings for part in parts), family.plugin.name)
        for name in active_sources(settings):
            if name not in joined.sources:
                raise DataError(
                    f"no plugin gives the data source {name!r}",
                    where=f"stage {settings.stage.number} {settings.stage.name}",
                    known=joined.sources,
                    do="install the extension that brings it and add --with, or narrow the run with --sources",
                )
    return joined


def _with_metrics(evaluators: dict[str, Any], family: OpenedPlugin, stage: Stage) -> dict[str, Any]:
    """The evaluators, with the plugins' metrics where the recipe names them."""
    added = family.metrics() if evaluators else {}
    if not added:
        return evaluators
    from mmcore.evaluate.metrics import WithMetrics

    result = dict(evaluators)
    for name, make in evaluators.items():
        asked = set(stage.validation[name].metrics) if name in stage.validation else set()
        asked |= {stage.best_metric.removeprefix(f"{name}/")} if stage.best_metric else set()
        if wanted := {metric: added[metric] for metric in added if metric in asked}:
            result[name] = partial(WithMetrics, make, wanted)
    return result


def _join(parts: Sequence[Mapping[str, Any]], family: OpenedPlugin) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in result:
                raise PluginError(
                    f"two plugins give the data source {name!r}",
                    where=f"--plugin {family.plugin.name} and its --with extensions",
                    do="leave one extension out, or rename its source",
                )
            result[name] = value
    return result


def build_order(settings: Settings, datasets: "Datasets") -> "Order":
    """The training order over the active sources."""
    from mmcore.data.order.balanced import BalancedOrder
    from mmcore.data.order.build import build_order

    stage, sources = settings.stage, active_sources(settings)
    order = build_order(stage, sources, datasets.sources, settings.seed)
    if stage.data.balance is None:
        return order
    return BalancedOrder(
        order,
        costs(settings),
        per_step=stage.global_batch // stage.micro_batch,
        window=stage.data.balance,
        steps=total_steps(settings, sum(len(datasets.sources[name]) for name in order.names)),
    )


def costs(settings: Settings) -> dict[str, float]:
    """What a sample of each active source costs."""
    return {name: source.cost for name, source in active_sources(settings).items()}


def choose_device(settings: Settings) -> "torch.device":
    """The device this process trains on."""
    import torch

    from mmcore.base import distributed

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "no CUDA device is available", where="--device cuda", do="leave --device out, or see `mmcore doctor`"
        )
    kind = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(kind, distributed.place().local_rank) if kind == "cuda" else torch.device("cpu")


def total_steps(settings: Settings, num_records: int) -> int:
    """Optimiser steps of the stage; `epochs` counts passes over the records of all active sources."""
    stage = settings.stage
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None
    return max(1, -(-int(stage.epochs * num_records) // stage.global_batch))
