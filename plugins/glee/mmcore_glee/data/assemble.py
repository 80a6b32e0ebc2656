"""From a recipe's entries to sources, collators and evaluators: which task an entry is for, and its names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from mmcore.contract.protocols import DataContext, Datasets, Evaluator
from mmcore.contract.recipe import Recipe, Source, Stage, Validation
from mmcore.data.entry import Entry, Opened, chosen, open_entry
from mmcore.data.formats.registry import Formats
from mmcore.data.formats.sidecars import SIDECARS
from mmcore.data.index import Index
from mmcore.data.names import merged, plain
from mmcore.data.records import Records
from mmcore.data.videos import VideoRecords
from mmcore.errors import DataError, RecipeError, suggest
from mmcore.evaluate.protocols import protocol
from pydantic import Field

from mmcore_glee import vocabulary
from mmcore_glee.data.augment import padding, pipeline
from mmcore_glee.data.clip_collate import ClipCollate
from mmcore_glee.data.clips import ClipSource
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.prompts import PROMPT_PROBABILITY
from mmcore_glee.data.sources import ImageSource
from mmcore_glee.data.tasks import TASKS, Task, task_named

LEARNS = ("detect", "segment", "refer", "ground", "track", "track_refer")
"""The tasks of annotations that GLEE learns (`mmcore.data.formats.format.TASKS`)."""


class Options(Recipe):
    """What GLEE understands of an entry's `options`, beside those of its format."""

    task: str | None = None
    """The task that its samples serve; None is the one of the entry's name, or what own data are good for."""
    names: Literal["published", "file"] | None = None
    """Whose category names are the vocabulary: the task's, or the file's own. None is the file's for own data."""
    num_frames: int | None = Field(default=None, gt=0)
    """Frames of a training clip, for videos; None is two."""
    frame_range: int | None = Field(default=None, gt=0)
    """How far they may be apart from one that is drawn anywhere, frames; None is five."""
    prompt_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the training batches that are shown a thing instead of told its name, where the stage has visual
    prompts; None is a fifth of images and all clips, as published, and a fifth of own clips."""
    protocol: str | None = None
    """How a validation set is judged, a name of `mmcore.evaluate.protocols`: VIDEOS, or OBJECTS for images; None is as
    its format says."""


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from.

    Raises:
        DataError: a format is not known, or a category has no name in the vocabulary.
        MissingDataError: an annotation file or image folder is not there.
    """
    sources, collate = {}, {}
    for name, opened in _opened(chosen(stage.data.sources, context), context).items():
        source, words = _source(opened, stage, training=True)
        sources[name] = source
        collate[name] = _collator(source)(
            source.task,
            words,
            negatives=vocabulary.phrases() if source.task.words == "phrases" else (),
            prompt_share=_prompt_share(stage, source, opened),
            **padding(source.pipeline),
        )
    return Datasets(sources, collate)


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources' tasks, else all.

    Raises:
        DataError: a format is not known.
        MissingDataError: an annotation file or image folder is not there.
    """
    sources, collate, evaluators = {}, {}, {}
    for name, opened in _opened(_chosen_validations(stage, context), context).items():
        source, words = _source(opened, stage, training=False)
        sources[name] = source
        collate[name] = _collator(source)(source.task, words, training=False, **padding(source.pipeline))
        evaluators[name] = _evaluator(opened, source, words)
    return Datasets(sources, collate, evaluators)


def _opened(entries: Mapping[str, Entry], context: DataContext) -> dict[str, Opened[Options]]:
    formats = Formats.of(context.formats)
    return {
        name: replace(
            open_entry(name, entry, context, formats, tasks=LEARNS, options=Options), own=_is_own(name, entry)
        )
        for name, entry in entries.items()
    }


def _is_own(name: str, entry: Entry) -> bool:
    """Whether an entry is somebody's own data: of an own-data file, or under a name that no task has."""
    return bool(entry.root) or (name not in TASKS and "task" not in entry.options)


def _chosen_validations(stage: Stage, context: DataContext) -> dict[str, Validation]:
    entries = stage.validation
    if context.only is None:
        return entries
    named = {name: entry for name, entry in entries.items() if name in context.only}
    if named:
        return named
    tasks = {_task_of(name, stage.data.sources[name]) for name in context.only if name in stage.data.sources}
    return {name: entry for name, entry in entries.items() if _task_of(name, entry) in tasks}


def _task_of(name: str, entry: Source | Validation) -> str:
    return str(entry.options.get("task", name.partition("_val")[0] if _is_own(name, entry) else name))


def _prompt_share(stage: Stage, source: ImageSource | ClipSource, opened: Opened[Options]) -> float:
    """How many training batches are visual prompts: of images a fifth, of clips all, as published. Own clips are
    prompted like images, for a prompted clip teaches neither names nor which queries are the same thing."""
    if not stage.model.get("visual_prompt"):
        return 0.0
    if opened.options.prompt_share is not None:
        return opened.options.prompt_share
    return 1.0 if isinstance(source, ClipSource) and not opened.own else PROMPT_PROBABILITY


def _collator(source: ImageSource | ClipSource) -> type[Collate]:
    return ClipCollate if isinstance(source, ClipSource) else Collate


def _source(
    opened: Opened[Options], stage: Stage, *, training: bool
) -> tuple[ImageSource | ClipSource, tuple[str, ...]]:
    """A source and the names its labels stand for."""
    index = opened.index()
    own = _own_names(index, opened.class_names or stage.class_names)
    task = _task(opened, own)
    words, labels = _names(opened, task, index, own)
    videos = opened.format.content == "videos"
    if videos != task.clips:
        raise RecipeError(
            f"task {task.name!r} takes {'clips' if task.clips else 'images'}, and the format {opened.format.name!r} "
            f"holds {'videos' if videos else 'images'}",
            where=f"{opened.key}.options.task",
            known=[name for name, other in TASKS.items() if other.clips == videos],
        )
    if videos:
        return _clips(opened, stage, task, index, labels, training=training), words
    for key in ("num_frames", "frame_range"):
        if getattr(opened.options, key) is not None:
            raise RecipeError(
                f"{key} is for videos; {opened.format.name!r} holds images", where=f"{opened.key}.options"
            )
    source = ImageSource(
        name=opened.name,
        records=Records(index, keep_empty=not training),
        images=opened.images,
        task=task,
        pipeline=pipeline(stage.data.transform),
        labels=labels,
        training=training,
        has_masks=task.has_masks and opened.format.has_masks and bool({"segment", "refer"} & set(opened.tasks)),
        sidecars=opened.format.name == SIDECARS,
        boxes_format="YOLO boxes" if opened.format.name.startswith("YOLO") else "COCO boxes",
        max_pixels=stage.data.max_pixels,
    )
    return source, words


def _clips(
    opened: Opened[Options], stage: Stage, task: Task, index: Index, labels: np.ndarray, *, training: bool
) -> ClipSource:
    published = ClipSource.__dataclass_fields__
    return ClipSource(
        name=opened.name,
        records=VideoRecords(index, keep_empty=not training),
        images=opened.images,
        task=task,
        pipeline=pipeline(stage.data.transform),
        labels=labels,
        training=training,
        has_masks=task.has_masks and opened.format.has_masks,
        num_frames=opened.options.num_frames or published["num_frames"].default,
        frame_range=opened.options.frame_range or published["frame_range"].default,
        max_pixels=stage.data.max_pixels,
    )


def _own_names(index: Index, learned: tuple[str, ...]) -> tuple[str, ...]:
    """The class names that are learned where they have all of the file's, so that one class has one name and
    validation asks for all of them; else the file's own, equal ones merged."""
    names, _ = merged(index.meta["categories"])
    known = {plain(name) for name in learned}
    return learned if known.issuperset(map(plain, names)) and known else names


def _task(opened: Opened[Options], own: Sequence[str]) -> Task:
    """The task that an entry says, is named after, or, being own data, is good for.

    Own categories are trained as COCO's, or as those of LVIS when they are more than COCO has; what objects are called
    in free words as GRIT's phrases.
    """
    named = opened.options.task or opened.name
    if not opened.own or named in TASKS or opened.options.task:
        return task_named(named, f"source {opened.name!r}, options.task")
    if "track_refer" in opened.tasks:
        return TASKS["rvos"]
    if "track" in opened.tasks:
        return TASKS["ytvis19" if len(own) <= TASKS["ytvis19"].denoising_classes else "lvvis"]
    if "refer" in opened.tasks:
        return TASKS["grounding"]
    if opened.format.evaluator == "omnilabel":
        return TASKS["omnilabel"]
    if "ground" in opened.tasks and "detect" not in opened.tasks:
        return TASKS["grit"]
    return TASKS["coco" if len(own) <= TASKS["coco"].denoising_classes else "lvis"]


def _names(
    opened: Opened[Options], task: Task, index: Index, own: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """The vocabulary, and the label in it of each category of the file."""
    categories: list[str] = index.meta["categories"]
    identity = np.arange(len(categories))
    if (opened.options.names or ("file" if opened.own and task.words in ("all", "sampled") else "published")) == "file":
        if task.words == "all" and len(own) > task.denoising_classes:
            raise RecipeError(
                f"{len(own)} categories, but task {task.name!r} has room for {task.denoising_classes}",
                where=f"source {opened.name!r}, options.names",
                do=f"choose a task with more classes: --set {opened.key}.options.task=...",
            )
        place = {plain(name): label for label, name in enumerate(own)}
        return own, np.array([place[plain(category)] for category in categories], np.int64)
    words = vocabulary.names(task.vocabulary)
    if len(words) == 1:
        return words, np.zeros(len(categories), np.int64)
    places = {plain(word): label for label, word in reversed(list(enumerate(words)))}
    unknown = [category for category in categories if plain(category) not in places]
    if not unknown:
        return words, np.array([places[plain(category)] for category in categories], np.int64)
    if task.by_order and len(categories) == len(words):
        return words, identity
    raise DataError(
        f"category {unknown[0]!r} is not among the {len(words)} names of task {task.name!r}",
        where=f"{index.label}, categories",
        do=suggest(
            unknown[0],
            words,
            f"rename it, or use the file's own names: --set {opened.key}.options.names=file",
        ),
    )


def _evaluator(
    opened: Opened[Options], source: ImageSource | ClipSource, words: Sequence[str]
) -> Callable[[], Evaluator]:
    kind = protocol(opened.format, f"validation set {source.name!r}", opened.options.protocol)
    if opened.format.evaluator == "omnilabel":
        return partial(kind, opened.files[0])
    iou_types = ("bbox", "segm") if source.has_masks else ("bbox",)
    truth = opened.truth(source.records.index) or source.records
    if source.task.words == "expression":
        return partial(kind, truth, iou_types=iou_types)
    ids = np.full(len(words), -1)  # names without a category in the file: predicted, never right
    same_as: dict[int, int] = {}
    for label, id_ in zip(source.labels.tolist(), source.records.index.meta["category_ids"], strict=True):
        if ids[label] >= 0:  # a second category of the same name
            same_as[id_] = int(ids[label])
        else:
            ids[label] = id_
    merge = {"same_as": same_as} if same_as else {}
    return partial(kind, truth, iou_types=iou_types, category_ids=ids.tolist(), **merge)
