"""The targets of the embedding losses: which teachers a stage asks, and whether they run or a cache answers for them.

The choice itself is the core's (`mmcore.data.cache.choice`); `model.targets` of a recipe is one of its modes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.cache.choice import CachedFeatures, Choice, Demand, LiveFeatures, choose
from mmcore.errors import RecipeError, WeightsError
from mmcore.vision.extractors import Extractor
from mmcore.vision.frozen import find_weights

from mmcore_visper.config import TaskConfig, VisperConfig, config_of
from mmcore_visper.teachers import DepthTeacher, GenTeacher, RandomTeacher, SegTeacher

FILES = {
    "depth": "hf://depth-anything/Depth-Anything-V2-Large/depth_anything_v2_vitl.pth",
    "seg": "hf://shi-labs/oneformer_coco_swin_large",
    "gen": "hf://stabilityai/stable-diffusion-2-1-unclip/image_encoder",
}
"""The published teachers. The last part of each name is looked up in the folder `weights` of the data root."""

DO = (
    "put it into the folder `weights` of the data root, name it with --set model.teachers.TASK=PATH, "
    "or train from a cache made elsewhere"
)


def targets_for(stage: Stage, context: DataContext, split: str = "train") -> LiveFeatures | CachedFeatures | None:
    """What a data source asks for the targets of a picture; None for stages without embedding losses.

    Validation pictures are not cached: their targets are always computed.

    Raises:
        MissingDataError: the recipe wants a cache that is not there, or live teachers whose files are not.
        DataError: the cache was made by other teachers or for other data.
    """
    choice = decide(stage, context)
    if choice is None:
        return None
    if choice.cache is not None and split == "train":
        return choice.features(context.root)
    return with_teachers(choice, stage, context).live()


def decide(stage: Stage, context: DataContext) -> Choice | None:
    """Cache or live teachers for the training data of a stage; None for stages without embedding losses.

    Asks only this machine's disk: teachers on the Hub are there once `with_teachers` or somebody else fetched them.

    Raises:
        MissingDataError, DataError, RecipeError: as `targets_for`.
    """
    config = config_of(stage, context.variant)
    tasks = config.active_tasks
    if not tasks:
        return None
    teachers, absent = describe_teachers(config, tasks, context)
    demand = Demand(
        extractors=teachers,
        absent=absent,
        shapes={task.name: task.target_shape for task in tasks},
        source=config.targets,
        store=config.target_dtype,
        home=context.cache / "targets" / "visper",
        family="VisPer-LM",
        setting="model.targets",
        what="teacher",
        known=("teacher", "precision", "last_only"),
    )
    return choose(demand, stage, context)


def with_teachers(choice: Choice, stage: Stage, context: DataContext) -> Choice:
    """The choice once every teacher is on this machine; those that are not yet are fetched from the Hub.

    Raises:
        MissingDataError: one is not on the Hub, or the Hub cannot be reached.
    """
    if not choice.demand.fetched(DO):
        return choice
    again = decide(stage, context)
    assert again is not None
    return again


def plan_notes(stage: Stage, context: DataContext) -> tuple[str, ...]:
    """Where the embedding targets of a run will come from, and why."""
    choice = decide(stage, context)
    return () if choice is None else choice.notes("targets")


def describe_teachers(
    config: VisperConfig, tasks: Sequence[TaskConfig], context: DataContext
) -> tuple[tuple[Extractor, ...], dict[str, str]]:
    """The teacher of each task, and the tasks whose teacher's files are not there with what these are called.

    Raises:
        RecipeError: a teacher is named for a task that does not exist.
        WeightsError: a teacher's features do not have the shape that the task predicts.
    """
    for name in config.teachers:
        if name not in FILES:
            raise RecipeError(f"there is no task {name!r}", where="model.teachers", known=FILES)
    teachers, absent = [], {}
    for task in tasks:
        name = config.teachers.get(task.name, "random" if context.variant == "tiny" else FILES[task.name])
        also = ("stable-diffusion-2-1-unclip/image_encoder",) if name == FILES["gen"] else ()  # within its pipeline
        path = None if name == "random" else find_weights(name, context.root, also)
        teacher = _teacher(task, config, name, path)
        if name != "random" and path is None:
            absent[task.name] = name
        elif tuple(teacher.shape) != task.target_shape:
            raise WeightsError(
                f"the {task.name} teacher gives {tuple(teacher.shape)}, the predictor {task.target_shape}",
                where=f"model.teachers.{task.name}",
                do="choose the teacher of this variant, or set the task's num_tokens and output_dim",
            )
        teachers.append(teacher)
    return tuple(teachers), absent


def _teacher(task: TaskConfig, config: VisperConfig, name: str, path: Path | None) -> Extractor:
    """A task's teacher; one whose files are not there has the published sizes."""
    if name == "random":
        return RandomTeacher(name=task.name, shape=task.target_shape)
    changes: dict[str, Any] = {"precision": "fp32"} if config.teacher_precision == "fp32" else {}
    if task.name == "depth":
        return DepthTeacher(weights=path, last_only=config.probe is not None, **changes)
    kind = SegTeacher if task.name == "seg" else GenTeacher
    return kind.of(path, **changes) if path else kind(**changes)
