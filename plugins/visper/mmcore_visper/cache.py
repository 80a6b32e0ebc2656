"""Live teachers or a cache of what they say: one decision, made from the recipe, the disk and nothing else.

    model.targets   live    the teachers run in every step
                    cache   a complete cache must be there, made by these teachers and for this data
                    FOLDER  the same, of that folder
                    auto    the cache when there is such a one, else live teachers; `mmcore plan` says which

Cached and live targets are the same numbers, bit for bit, on one kind of machine: both come from the same picture
through the same preparation, teachers compute in passes of one length and outside any autocast, so that neither the
batch nor the recipe's precision reaches them, and live targets are rounded to the precision of a cache. A cache from
another kind of machine differs as the teachers themselves do there, by the rounding of what they compute in.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from mmcore.base import hub
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.cache.features import CacheJob, FeatureCache, Field, Item, fingerprint, unfit
from mmcore.data.images import MAX_PIXELS, read_image, safe_join
from mmcore.data.index import file_sha256
from mmcore.errors import DataError, MissingDataError, RecipeError, WeightsError
from torch import Tensor

from mmcore_visper.config import VARIANTS, TaskConfig, VisperConfig
from mmcore_visper.teachers import PASS, DepthTeacher, GenTeacher, RandomTeacher, SegTeacher, Teacher, Teachers

MODES = ("auto", "live", "cache")
FILES: Mapping[str, str] = {
    "depth": "hf://depth-anything/Depth-Anything-V2-Large/depth_anything_v2_vitl.pth",
    "seg": "hf://shi-labs/oneformer_coco_swin_large",
    "gen": "hf://stabilityai/stable-diffusion-2-1-unclip/image_encoder",
}
"""The published teachers. The last part of each name is looked up in the folder `weights` of the data root."""


@dataclass(frozen=True)
class LiveTargets:
    """Pixels as each teacher takes them; the model asks the teachers. Small enough for data workers."""

    teachers: tuple[Teacher, ...]
    fingerprint: str
    """Of the teachers."""

    def of(self, rgb: UInt8[np.ndarray, "height width 3"], path: Path) -> dict[str, dict[str, Tensor]]:
        """The picture prepared for every teacher: `{"images": {task: pixels}}`."""
        del path
        return {"images": {teacher.task: teacher.inputs(rgb) for teacher in self.teachers}}


@dataclass(frozen=True)
class CachedTargets:
    """What the teachers said of each picture."""

    cache: FeatureCache
    root: Path
    """Data root; images are known by their path below it."""
    tasks: tuple[str, ...]
    fingerprint: str
    """Of the teachers."""

    def of(self, rgb: UInt8[np.ndarray, "height width 3"], path: Path) -> dict[str, dict[str, Tensor]]:
        """The cached targets of a picture: `{"features": {task: features}}`, float32.

        Raises:
            DataError: the cache has no such picture, or the picture has changed since.
        """
        del rgb
        row = self.cache.read(key_of(path, self.root), path)
        return {"features": {task: torch.from_numpy(row[task]).float() for task in self.tasks}}


@dataclass(frozen=True)
class Decision:
    """Where this stage's targets come from."""

    tasks: tuple[TaskConfig, ...]
    teachers: tuple[Teacher, ...]
    """Described, not loaded."""
    absent: Mapping[str, str]
    """Tasks whose teacher's files are not there, and what the recipe calls these."""
    identity: Mapping[str, Any]
    store: str
    """Precision of stored and of live targets."""
    cache: FeatureCache | None
    why: str
    """One line for people."""

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the targets."""
        return fingerprint(self.identity)[:16]

    def load(self) -> Teachers:
        """The teachers themselves; each is loaded when it is first asked."""
        return Teachers(self.teachers, store=self.store)


def targets_for(stage: Stage, context: DataContext, split: str = "train") -> LiveTargets | CachedTargets | None:
    """What a data source asks for the targets of a picture; None for stages without embedding losses.

    Validation pictures are not cached: their targets are always computed.

    Raises:
        MissingDataError: the recipe wants a cache that is not there, or live teachers whose files are not.
        DataError: the cache was made by other teachers or for other data.
    """
    decision = decide(stage, context)
    if decision is None:
        return None
    if decision.cache is not None and split == "train":
        names = tuple(task.name for task in decision.tasks)
        return CachedTargets(decision.cache, context.root, names, decision.fingerprint)
    decision = with_teachers(decision, stage, context)
    return LiveTargets(decision.teachers, decision.fingerprint)


def decide(stage: Stage, context: DataContext) -> Decision | None:
    """Cache or live teachers for the training data of a stage; None for stages without embedding losses.

    Asks only this machine's disk: teachers on the Hub are there once `with_teachers` or somebody else fetched them.

    Raises:
        MissingDataError, DataError, RecipeError: as `targets_for`.
    """
    config = config_of(stage, context.variant)
    tasks = active_tasks(config)
    if not tasks:
        return None
    teachers, absent = describe_teachers(config, tasks, context)
    identity = identity_of(teachers, absent, config, context)
    known: dict[str, Any] = {
        "tasks": tasks,
        "teachers": teachers,
        "absent": absent,
        "identity": identity,
        "store": config.target_dtype,
    }
    if config.targets == "live":
        return Decision(**known, cache=None, why="live teachers, as model.targets says")
    given = None if config.targets in MODES else context.root / Path(config.targets).expanduser()
    folders = [given] if given else sorted(path.parent for path in home(context).glob("*/cache.json"))
    refused = []
    for folder in folders:
        if problem := misfit(folder, identity, absent, tasks, covers(stage, context)):
            refused.append(f"{folder}: {problem}")
            continue
        cache = FeatureCache(folder)
        known["identity"] = cache.identity  # complete, also where the teachers' files are not
        return Decision(**known, cache=cache, why=f"cached in {folder}, {len(cache):,} images, {config.target_dtype}")
    if config.targets != "auto":
        raise MissingDataError(
            "there is no complete cache of these teachers for this data",
            where=f"model.targets={config.targets}",
            known=refused or None,
            do="make it with `mmcore data cache` and the same options, or use --set model.targets=live",
        )
    return Decision(**known, cache=None, why="; ".join(["live teachers: no complete cache fits", *refused[:2]]))


def data_cache(stage: Stage, context: DataContext, dtype: str | None = None) -> CacheJob:
    """What `mmcore data cache` computes for a stage: every teacher's target of every picture of the training data.

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
    decision = decide(stage, context)
    if decision is None:
        raise RecipeError(
            f"stage {stage.name} has no embedding losses, so there is nothing to cache",
            where=f"--stage {stage.name}, --variant {context.variant}",
            do="cache for stage pt or probe",
        )
    decision = with_teachers(decision, stage, context)
    live = LiveTargets(decision.teachers, decision.fingerprint)
    return CacheJob(
        folder=home(context) / f"{context.variant}-{decision.fingerprint}",
        fields={teacher.task: Field(tuple(teacher.shape), decision.store) for teacher in decision.teachers},
        identity=decision.identity,
        covers=covers(stage, context),
        items=lambda: items_of(stage, context),
        read=_Prepare(live, stage.data.max_pixels),
        make=lambda device: _Making(decision.load().load(device)),
    )


def plan_notes(stage: Stage, context: DataContext) -> tuple[str, ...]:
    """Where the embedding targets of a run will come from, and why."""
    decision = decide(stage, context)
    if decision is None:
        return ()
    names = ", ".join(task.name for task in decision.tasks)
    notes = [f"targets of {names}: {decision.why}"]
    if decision.absent and decision.cache is None:
        notes.append(f"teachers not on this machine, fetched at the start: {', '.join(decision.absent.values())}")
    return tuple(notes)


@dataclass(frozen=True)
class _Prepare:
    """An image's inputs; runs in worker processes."""

    live: LiveTargets
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path) -> dict[str, Tensor]:
        return self.live.of(read_image(path, max_pixels=self.max_pixels), path)["images"]


@dataclass(frozen=True)
class _Making:
    """Inputs to targets in the stored precision."""

    teachers: Teachers

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.teachers.stored(task, pixels) for task, pixels in inputs.items()}


def config_of(stage: Stage, variant: str) -> VisperConfig:
    """The variant's configuration with the recipe's `model` entries."""
    return VARIANTS[variant].replace(**stage.model)


def active_tasks(config: VisperConfig) -> tuple[TaskConfig, ...]:
    """The tasks whose targets this stage compares with."""
    if config.probe:
        return (config.task(config.probe),)
    return config.tasks if config.predictors else ()


def home(context: DataContext) -> Path:
    """Where caches lie unless named."""
    return context.cache / "targets" / "visper"


def describe_teachers(
    config: VisperConfig, tasks: Sequence[TaskConfig], context: DataContext
) -> tuple[tuple[Teacher, ...], dict[str, str]]:
    """The teacher of each task, and the tasks whose teacher's files are not there with what these are called.

    Raises:
        RecipeError: a teacher is named for a task that does not exist.
        WeightsError: a teacher's features do not have the shape that the task predicts.
    """
    for name in config.teachers:
        if name not in FILES:
            raise RecipeError(f"there is no task {name!r}", where="model.teachers", known=FILES)
    found = [_teacher(task, config, context) for task in tasks]
    absent = {task.name: teacher_name(task, config, context) for task, (_, there) in zip(tasks, found) if not there}
    for task, (teacher, _) in zip(tasks, found, strict=True):
        if task.name not in absent and tuple(teacher.shape) != task.target_shape:
            raise WeightsError(
                f"the {task.name} teacher gives {tuple(teacher.shape)}, the predictor {task.target_shape}",
                where=f"model.teachers.{task.name}",
                do="choose the teacher of this variant, or set the task's num_tokens and output_dim",
            )
    return tuple(teacher for teacher, _ in found), absent


def _teacher(task: TaskConfig, config: VisperConfig, context: DataContext) -> tuple[Teacher, bool]:
    """A task's teacher, and whether its files are there."""
    name = teacher_name(task, config, context)
    if name == "random":
        return RandomTeacher(task=task.name, shape=task.target_shape), True
    path = find(name, context.root)
    changes: dict[str, Any] = {"precision": "fp32"} if config.teacher_precision == "fp32" else {}
    if task.name == "depth":
        return DepthTeacher(weights=path, last_only=config.probe is not None, **changes), path is not None
    kind = SegTeacher if task.name == "seg" else GenTeacher
    return (kind.of(path, **changes) if path else kind(**changes)), path is not None


def teacher_name(task: TaskConfig, config: VisperConfig, context: DataContext) -> str:
    """What the recipe calls a task's teacher: a path, a name on the Hub, or `random`."""
    return config.teachers.get(task.name, "random" if context.variant == "tiny" else FILES[task.name])


def find(name: str, root: Path) -> Path | None:
    """A teacher's file or folder: absolute, below the data root, in its folder `weights`, fetched before, or None.

    Args:
        name: a path, or a published name, whose last part is looked up in `weights`.
        root: data root.
    """
    last = name.rsplit("/", 1)[-1]
    if not hub.is_hub(name):
        path = root / Path(name).expanduser()
        return path if path.exists() else None
    local = [root / "weights" / last]
    if name == FILES["gen"]:  # the folder of a pipeline
        local.append(root / "weights" / "stable-diffusion-2-1-unclip" / last)
    return next((path for path in local if path.exists()), None) or hub.fetched(name)


def identity_of(
    teachers: Sequence[Teacher], absent: Collection[str], config: VisperConfig, context: DataContext
) -> dict[str, Any]:
    """Everything that decides the targets, JSON values: teachers, hashes of their files, preparation, precision."""
    told: dict[str, Any] = {"family": "VisPer-LM", "pass": PASS, "store": config.target_dtype}
    for teacher in teachers:
        files = (
            {} if teacher.task in absent else {path.name: file_sha256(path, context.cache) for path in teacher.files}
        )
        told[teacher.task] = {**teacher.facts, "files": files}
    return json.loads(json.dumps(told))


def misfit(
    folder: Path,
    identity: Mapping[str, Any],
    absent: Collection[str],
    tasks: Sequence[TaskConfig],
    wanted: Mapping[str, str],
) -> str | None:
    """Why a cache cannot serve, in a few words; None when it can.

    A teacher whose files are not on this machine, and with them its sizes, is taken to be the one of its kind that made
    the cache, if shape and precision are right.
    """
    try:
        if different := [entry for entry in unfit(folder, identity) if not _unknowable(entry, absent)]:
            return "made by something else: " + "; ".join(different[:2])
        cache = FeatureCache(folder)
    except DataError as error:
        return error.what
    for task in tasks:
        if cache.fields[task.name].shape != task.target_shape:
            return f"{task.name} is {cache.fields[task.name].shape} instead of {task.target_shape}"
    have = cache.covers
    missing = [name for name, print_ in wanted.items() if print_ not in have.values()]
    return f"not complete for {', '.join(missing)}" if missing else None


def _unknowable(entry: str, absent: Collection[str]) -> bool:
    """Whether a difference concerns what only a teacher's absent files could tell."""
    task, _, fact = entry.partition(":")[0].partition(".")
    return task in absent and fact not in ("teacher", "precision", "last_only")


def covers(stage: Stage, context: DataContext) -> dict[str, str]:
    """Source -> fingerprint of its files, which name the pictures."""
    result = {}
    for name, source in stage.data.sources.items():
        if source.weight <= 0 or (context.only is not None and name not in context.only):
            continue
        files = (source.annotations,) if isinstance(source.annotations, str) else source.annotations
        hashes = [_file_print(context.root / file, context.cache) for file in files]
        content = json.dumps([hashes, source.format, source.images, sorted(source.options.items())], default=str)
        result[name] = hashlib.sha256(content.encode()).hexdigest()
    return result


def _file_print(path: Path, cache: Path) -> str:
    return file_sha256(path, cache) if path.is_file() else "absent"


def items_of(stage: Stage, context: DataContext) -> Iterator[Item]:
    """Every picture that the training data of a stage names."""
    from mmcore_visper.data import build

    for source in build(stage, "train", context).sources.values():
        for path in pictures_of(source):
            yield Item(key_of(path, context.root), path)


def pictures_of(source: Any) -> Iterable[Path]:
    """The picture files of a source's usable records."""
    records, folder = source.records, source.images
    for position in range(len(records)):
        if not records.unusable(position) and (image := records[position].image) is not None:
            yield safe_join(folder, image)


def key_of(path: Path, root: Path) -> str:
    """A picture's name in a cache: its path below the data root, or as it is when it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def with_teachers(decision: Decision, stage: Stage, context: DataContext) -> Decision:
    """The decision once every teacher is on this machine; those that are not yet are fetched from the Hub.

    Raises:
        MissingDataError: one is not on the Hub, or the Hub cannot be reached.
    """
    if not decision.absent:
        return decision
    do = "put it into the folder `weights` of the data root, name it with --set model.teachers.TASK=PATH, "
    do += "or train from a cache made elsewhere"
    for task, name in decision.absent.items():
        if not hub.is_hub(name):
            raise MissingDataError(f"the weights of the teacher of {task} are not there", where=name, do=do)
        hub.fetch(name, do=do)
    again = decide(stage, context)  # their files say what they are
    assert again is not None
    return again
