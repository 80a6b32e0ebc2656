"""The order of a stage: one dispatch on the kind of its mixture."""

from collections.abc import Mapping
from typing import Any

from mmcore.contract.mixture import ByKind, ByLength, ByTask, SourcePerBatch, SourcePerSample, WholeEpochs
from mmcore.contract.protocols import DataSource, Order
from mmcore.contract.recipe import Source, Stage
from mmcore.data.order.by_kind import ByKindOrder
from mmcore.data.order.by_length import ByLengthOrder
from mmcore.data.order.by_task import ByTaskOrder
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.data.order.source_per_sample import SourcePerSampleOrder
from mmcore.errors import RecipeError


def build_order(stage: Stage, recipe: Mapping[str, Source], sources: Mapping[str, DataSource], seed: int) -> Order:
    """The training order of a stage.

    Args:
        stage: its recipe.
        recipe: the active sources.
        sources: the same as built.
        seed: of the run.

    Raises:
        RecipeError: the sources cannot be mixed in this way; names the entry.
        DataError: a source has no records.
    """
    if not recipe:
        raise RecipeError("no data source has a weight above 0", where="data.sources")
    match stage.data.mixture:
        case SourcePerBatch(by_aspect=by_aspect):
            return SourcePerBatchOrder(**_weighted(stage, recipe, sources, by_aspect), seed=seed)
        case SourcePerSample(by_aspect=by_aspect):
            return SourcePerSampleOrder(**_weighted(stage, recipe, sources, by_aspect), seed=seed)
        case WholeEpochs(source_per=source_per, by_aspect=by_aspect):
            order = SourcePerBatchOrder if source_per == "batch" else SourcePerSampleOrder
            return order(**_weighted(stage, recipe, sources, by_aspect), whole_epochs=True, seed=seed)
        case ByLength(by_modality=by_modality):
            lengths, micro_batch = _lengths(stage, recipe, sources)
            return ByLengthOrder(lengths, micro_batch, stage.global_batch, modality=by_modality, seed=seed)
        case ByTask():
            lengths, micro_batch = _lengths(stage, recipe, sources)
            return ByTaskOrder(lengths, _groups(recipe), micro_batch, stage.global_batch, seed=seed)
        case ByKind(weights=weights, kinds_per_step=kinds_per_step):
            return ByKindOrder(
                sizes={name: len(sources[name]) for name in recipe},
                rates={name: source.weight for name, source in recipe.items()},
                kinds=_groups(recipe),
                weights=weights,
                micro_batch={name: source.micro_batch or stage.micro_batch for name, source in recipe.items()},
                batches_per_step=stage.global_batch // stage.micro_batch,
                kinds_per_step=kinds_per_step,
                seed=seed,
            )


def _weighted(
    stage: Stage, recipe: Mapping[str, Source], sources: Mapping[str, DataSource], by_aspect: bool
) -> dict[str, Any]:
    return {
        "sizes": {name: len(sources[name]) for name in recipe},
        "weights": {name: source.weight for name, source in recipe.items()},
        "micro_batch": {name: source.micro_batch or stage.micro_batch for name, source in recipe.items()},
        "groups": {name: sources[name].aspect_groups() for name in recipe} if by_aspect else None,
    }


def _groups(recipe: Mapping[str, Source]) -> dict[str, str]:
    return {name: source.group or "" for name, source in recipe.items()}


def _lengths(
    stage: Stage, recipe: Mapping[str, Source], sources: Mapping[str, DataSource]
) -> tuple[dict[str, Any], int]:
    """Lengths of each source's records, and the one micro-batch."""
    where = f"stage {stage.number} {stage.name}, data.mixture.kind {stage.data.mixture.kind}"
    if len({source.weight for source in recipe.values()}) > 1:
        raise RecipeError(
            "grouping by length takes each record at most once per epoch, so weights cannot differ",
            where=where,
            known=[f"{name}: {source.weight}" for name, source in recipe.items()],
            do="give all sources one weight, or choose another data.mixture.kind",
        )
    sizes = {source.micro_batch or stage.micro_batch for source in recipe.values()}
    if len(sizes) > 1:
        raise RecipeError("grouping by length needs one micro_batch for all sources", where=where, known=sorted(sizes))
    lengths = {}
    for name in recipe:
        measured = sources[name].lengths()
        if measured is None:
            raise RecipeError(
                f"source {name!r} does not know how long its records are",
                where=where,
                do="choose another data.mixture.kind, or other sources",
            )
        lengths[name] = measured
    return lengths, sizes.pop()
