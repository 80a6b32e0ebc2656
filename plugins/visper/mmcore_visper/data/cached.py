"""What `mmcore data cache` computes: every teacher's target of every picture that a stage's training data names."""

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.cache.choice import cache_job
from mmcore.data.cache.features import CacheJob
from mmcore.errors import RecipeError

from mmcore_visper.data.assemble import build_train
from mmcore_visper.targets import decide, with_teachers


def data_cache(stage: Stage, context: DataContext, dtype: str | None = None) -> CacheJob:
    """The job of a stage.

    Args:
        stage: with embedding losses.
        context: of the run.
        dtype: precision on disk, by default the recipe's.

    Raises:
        RecipeError: the stage has no embedding losses.
        MissingDataError: a teacher's files are not there.
    """
    changes = {"targets": "live"} | ({"target_dtype": dtype} if dtype else {})
    stage = stage.replace(model={**stage.model, **changes})
    choice = decide(stage, context)
    if choice is None:
        raise RecipeError(
            f"stage {stage.name} has no embedding losses, so there is nothing to cache",
            where=f"--stage {stage.name}, --variant {context.variant}",
            do="cache for stage pt or probe",
        )
    choice = with_teachers(choice, stage, context)
    return cache_job(choice, stage, context, lambda: build_train(stage, context).sources)
