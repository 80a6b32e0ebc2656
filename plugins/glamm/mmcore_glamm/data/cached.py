"""What `mmcore data cache` computes: SAM's map of every picture whose masks a stage learns."""

from collections.abc import Iterator
from pathlib import Path

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.cache.choice import cache_job, choose
from mmcore.data.cache.features import CacheJob
from mmcore.errors import RecipeError

from mmcore_glamm.config import config_of
from mmcore_glamm.data import build
from mmcore_glamm.features import DO, ENCODER, demand, trains_encoder


def data_cache(stage: Stage, context: DataContext, dtype: str | None = None) -> CacheJob:
    """The job of a stage.

    Args:
        stage: with masks.
        context: of the run.
        dtype: precision on disk, by default the recipe's.

    Raises:
        RecipeError: the stage trains the encoder.
        MissingDataError: SAM's file is not there.
    """
    changes = {"feature_dtype": dtype} if dtype else {}
    stage = stage.replace(model={**stage.model, **changes, "features": "live"})
    config = config_of(stage, context.variant)
    if trains_encoder(stage):
        raise RecipeError("a map that the recipe trains cannot be cached", where=f"--stage {stage.name}, {ENCODER}")
    wanted = demand(config, context)
    if wanted.fetched(DO):
        wanted = demand(config, context)

    def pictures() -> Iterator[Path]:
        for source in build(stage, "train", context).sources.values():
            if getattr(source, "features", None) is not None:
                yield from source.pictures()  # type: ignore[attr-defined]

    return cache_job(choose(wanted, stage, context), stage, context, pictures)
