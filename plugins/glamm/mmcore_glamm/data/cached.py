"""What `mmcore data cache` computes."""

from functools import partial

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.cache.choice import cache_job, chosen_once_fetched
from mmcore.data.cache.features import CacheJob
from mmcore.errors import RecipeError

from mmcore_glamm.config import config_of
from mmcore_glamm.data.assemble import build_train
from mmcore_glamm.features import DO, ENCODER, demand, trains_encoder


def data_cache(stage: Stage, context: DataContext, dtype: str | None = None) -> CacheJob:
    """SAM's map of every picture whose masks a stage learns.

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
    if trains_encoder(stage):
        raise RecipeError("a map that the recipe trains cannot be cached", where=f"--stage {stage.name}, {ENCODER}")
    wanted = partial(demand, config_of(stage, context.variant), context)
    choice = chosen_once_fetched(wanted, stage, context, DO)
    return cache_job(choice, stage, context, lambda: build_train(stage, context).sources)
