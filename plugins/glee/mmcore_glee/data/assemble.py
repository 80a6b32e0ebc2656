"""From a recipe's entries to sources, collators and evaluators: formats, vocabularies, and where the files lie."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmcore.contract.protocols import DataContext, Datasets, Evaluator
from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.data.formats.coco import CocoInstances, Lvis, Phrases
from mmcore.data.formats.refer import RefCoco, Refer
from mmcore.data.images import locate
from mmcore.data.index import Index, Parser, open_index
from mmcore.data.records import Records
from mmcore.errors import DataError, RecipeError, suggest
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.lvis import LvisEvaluator
from mmcore.evaluate.refcoco import RefCocoEvaluator

from mmcore_glee import vocabulary
from mmcore_glee.data.augment import pipeline
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.sources import ImageSource
from mmcore_glee.data.tasks import PARSED_FORMATS, SIDECARS, Task, task_named

OPTIONS = ("task", "names", "split")
"""What `options` of a source may hold: its task; `names: file` to take the category names of the file for the
vocabulary, for data sets of one's own; the split of a RefCOCO folder."""

Entry = Source | Validation


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from.

    Raises:
        DataError: a format is not known, or a category has no name in the vocabulary.
        MissingDataError: an annotation file or image folder is not there.
    """
    entries = {
        name: source
        for name, source in stage.data.sources.items()
        if source.weight > 0 and (context.only is None or name in context.only)
    }
    _refuse_unreadable(entries, stage)
    sources, collate = {}, {}
    for name, entry in entries.items():
        source, words = _source(name, entry, stage, context, training=True)
        sources[name] = source
        collate[name] = Collate(
            source.task,
            words,
            negatives=vocabulary.phrases() if source.task.words == "phrases" else (),
            prompts=bool(stage.model.get("visual_prompt")),
        )
    return Datasets(sources, collate)


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources' tasks, else all.

    Raises:
        DataError: a format is not known.
        MissingDataError: an annotation file or image folder is not there.
    """
    entries = _chosen_validations(stage, context)
    _refuse_unreadable(entries, stage)
    sources, collate, evaluators = {}, {}, {}
    for name, entry in entries.items():
        source, words = _source(name, entry, stage, context, training=False)
        sources[name] = source
        collate[name] = Collate(source.task, words, training=False)
        evaluators[name] = _evaluator(entry, source, words, context.root)
    return Datasets(sources, collate, evaluators)


def _chosen_validations(stage: Stage, context: DataContext) -> dict[str, Entry]:
    entries: dict[str, Entry] = dict(stage.validation)
    if context.only is None:
        return entries
    named = {name: entry for name, entry in entries.items() if name in context.only}
    if named:
        return named
    tasks = {_task(name, stage.data.sources[name]).name for name in context.only if name in stage.data.sources}
    return {name: entry for name, entry in entries.items() if _task(name, entry).name in tasks}


def _refuse_unreadable(entries: Mapping[str, Entry], stage: Stage) -> None:
    for name, entry in entries.items():
        if entry.format not in PARSED_FORMATS:
            raise DataError(
                f"source {name!r} has the format {entry.format!r}, which is not known",
                where=f"stage {stage.number} {stage.name}, {_files(entry)}",
                known=PARSED_FORMATS,
                do=suggest(entry.format, PARSED_FORMATS, f"choose one: --set data.sources.{name}.format=..."),
            )


def _source(
    name: str, entry: Entry, stage: Stage, context: DataContext, *, training: bool
) -> tuple[ImageSource, tuple[str, ...]]:
    """A source and the names its labels stand for."""
    _check_options(name, entry)
    task = _task(name, entry)
    images = locate(context.root, entry.images, f"source {name!r}")
    index = open_index(_parser(name, entry, context.root), context.cache)
    words, labels = _names(name, entry, task, index)
    source = ImageSource(
        name=name,
        records=Records(index, keep_empty=not training),
        images=images,
        task=task,
        pipeline=pipeline(stage.data.transform),
        labels=labels,
        training=training,
        has_masks=task.has_masks and entry.format != "COCO boxes",
        sidecars=entry.format == SIDECARS,
        max_pixels=stage.data.max_pixels,
    )
    return source, words


def _parser(name: str, entry: Entry, root: Path) -> Parser:
    what = f"source {name!r}"
    if entry.format == "RefCOCO":
        references, instances = _two_files(name, entry)
        return Refer(
            locate(root, references, what, also=".json"),
            locate(root, instances, what),
            entry.options.get("split", "train"),
        )
    path = locate(root, _files(entry), what)
    kinds = {"RefCOCO-COCO": RefCoco, "LVIS v1": Lvis, "Visual Genome phrases": Phrases}
    return kinds.get(entry.format, CocoInstances)(path)


def _two_files(name: str, entry: Entry) -> tuple[str, str]:
    files = entry.annotations
    if isinstance(files, str) or len(files) != 2:
        raise RecipeError(
            "RefCOCO takes two files: the references and instances.json",
            where=f"data.sources.{name}.annotations",
            do='write annotations: ["refer/refcoco/refs(unc).p", "refer/refcoco/instances.json"]',
        )
    return files[0], files[1]


def _names(name: str, entry: Entry, task: Task, index: Index) -> tuple[tuple[str, ...], np.ndarray]:
    """The vocabulary, and the label in it of each category of the file."""
    categories: list[str] = index.meta["categories"]
    identity = np.arange(len(categories))
    if entry.options.get("names") == "file":
        if task.words == "all" and len(categories) > task.denoising_classes:
            raise RecipeError(
                f"{len(categories)} categories, but task {task.name!r} has room for {task.denoising_classes}",
                where=f"source {name!r}, options.names",
                do=f"choose a task with more classes: --set data.sources.{name}.options.task=...",
            )
        return tuple(categories), identity
    words = vocabulary.names(task.vocabulary)
    if len(words) == 1:
        return words, np.zeros(len(categories), np.int64)
    places = {_plain(word): label for label, word in reversed(list(enumerate(words)))}
    unknown = [category for category in categories if _plain(category) not in places]
    if not unknown:
        return words, np.array([places[_plain(category)] for category in categories], np.int64)
    if task.by_order and len(categories) == len(words):
        return words, identity
    raise DataError(
        f"category {unknown[0]!r} is not among the {len(words)} names of task {task.name!r}",
        where=f"{index.label}, categories",
        do=suggest(
            unknown[0],
            words,
            f"rename it, or use the file's own names: --set data.sources.{name}.options.names=file",
        ),
    )


def _plain(name: str) -> str:
    return name.strip().lower()


def _evaluator(entry: Entry, source: ImageSource, words: Sequence[str], root: Path) -> Callable[[], Evaluator]:
    annotations = locate(root, _files(entry), f"validation set {source.name!r}")
    iou_types = ("bbox", "segm") if source.has_masks else ("bbox",)
    if source.task.words == "expression":
        if entry.format == "RefCOCO":
            raise DataError(
                "referring expressions are evaluated against RefCOCO in COCO form",
                where=f"validation set {source.name!r}",
                known=("RefCOCO-COCO",),
                do="give instances_val.json as the published GLEE reads it, one image entry per referred object",
            )
        return partial(RefCocoEvaluator, annotations, iou_types=iou_types)
    ids = np.full(len(words), -1)  # names without a category in the file: predicted, never right
    ids[source.labels] = source.records.index.meta["category_ids"]
    kind = LvisEvaluator if entry.format == "LVIS v1" else CocoEvaluator
    return partial(kind, annotations, iou_types=iou_types, category_ids=ids.tolist())


def _task(name: str, entry: Entry) -> Task:
    return task_named(entry.options.get("task", name), f"source {name!r}, options.task")


def _check_options(name: str, entry: Entry) -> None:
    for key in entry.options:
        if key not in OPTIONS:
            raise RecipeError(
                f"a source has no option {key!r}",
                where=f"source {name!r}, options",
                known=OPTIONS,
                do=suggest(key, OPTIONS, "remove it or choose one of these"),
            )
    names: Any = entry.options.get("names", "published")
    if names not in ("published", "file"):
        raise RecipeError(f"names is {names!r}", where=f"source {name!r}, options.names", known=("published", "file"))


def _files(entry: Entry) -> str:
    files = entry.annotations
    return files if isinstance(files, str) else files[0] if files else ""
