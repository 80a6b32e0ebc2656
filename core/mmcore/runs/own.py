"""Own data in a recipe: `--own FILE` takes the place of a stage's data, `--add FILE:WEIGHT` is mixed in."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from mmcore.base.figures import LOSS
from mmcore.contract.classes import REST
from mmcore.contract.mixture import GROUPING
from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.data.formats.registry import Formats
from mmcore.data.names import merged, plain
from mmcore.data.own import Described, Part, describe
from mmcore.errors import DataError, RecipeError, UsageError, suggest

DEFAULT_STAGE = "finetune"
"""The stage that --own takes where none is named."""

LEFT_OUT = "own data left out"


def with_own(
    stage: Stage,
    file: Path,
    formats: Formats,
    learns: Sequence[str],
    cache: Path,
    judged: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Stage, list[str]]:
    """The stage on own data alone.

    Args:
        stage: of the family.
        file: the own-data file.
        formats: all that are known.
        learns: the tasks that the family learns.
        cache: folder that holds indexes.
        judged: `Family.judged`.

    Returns:
        The stage, and a line for every file of which the family can learn nothing.
    Raises:
        DataError: nothing of it serves a task that the family learns; names the reason and the number of records.
    """
    own = _with_known_classes(describe(file, formats), cache)
    sources, validation, notes = _entries(own, learns, 1.0, cache, judged)
    best = next((f"{name}/{one.metrics[0]}" for name, one in validation.items() if one.metrics), None)
    # Nothing but the loss says how well captions are learned.
    best = best or next((f"{name}/{LOSS}" for name, one in validation.items() if one.loss_on), None)
    data = stage.data.replace(sources=sources)
    names = _class_names(own, learns, cache)
    return stage.replace(data=data, validation=validation, best_metric=best, class_names=names), notes


def with_added(
    stage: Stage,
    added: str,
    formats: Formats,
    learns: Sequence[str],
    cache: Path,
    judged: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Stage, list[str]]:
    """The stage with own data mixed in.

    Args:
        stage: of the family.
        added: `FILE:WEIGHT`; the weight is 1 where it is left out.
        formats: all that are known.
        learns: the tasks that the family learns.
        cache: folder that holds indexes.
        judged: `Family.judged`.

    Raises:
        UsageError: the weight is no positive number.
        RecipeError: a source of the stage has the name.
        DataError: as `with_own`.
    """
    path, weight = _split(added)
    own = _with_known_classes(describe(path, formats), cache)
    sources, validation, notes = _entries(own, learns, weight, cache, judged)
    for name in (*sources, *validation):
        if name in stage.data.sources or name in stage.validation:
            raise RecipeError(f"the stage has a source {name!r} already", where=path, do="give the data another name")
    names = _class_names(own, learns, cache)
    sources = {name: _grouped(source, stage, path).replace(class_names=names) for name, source in sources.items()}
    validation = {name: one.replace(class_names=names) for name, one in validation.items()}
    data = stage.data.replace(sources={**_with_names(stage.data.sources, stage), **sources})
    validation = {**_with_names(stage.validation, stage), **validation}
    known = merged((*stage.class_names, *names))[0] if stage.class_names else ()  # a recipe's are read with its sources
    return stage.replace(data=data, validation=validation, class_names=known), notes


def _class_names(own: Described, learns: Sequence[str], cache: Path) -> tuple[str, ...]:
    """The classes of what is learned of a data set."""
    kept = [part for part in own.train if any(task in learns for task in part.tasks)]
    return merged([name for part in kept for name in part.class_names(cache)])[0]


Own = TypeVar("Own", Source, Validation)


def _with_names(entries: Mapping[str, Own], stage: Stage) -> dict[str, Own]:
    """The entries, those of --own with the names of their data set, which from now on are not all of the run's."""
    return {
        name: entry.replace(class_names=stage.class_names) if entry.root and not entry.class_names else entry
        for name, entry in entries.items()
    }


def _grouped(source: Source, stage: Stage, path: Path) -> Source:
    """The source with a group where the stage's mixture goes by one: its own, or the only one that there is."""
    groups = sorted({str(one.group) for one in stage.data.sources.values() if one.group is not None})
    if stage.data.mixture.kind not in GROUPING or source.group is not None:
        return source
    if len(groups) != 1:
        raise RecipeError(
            f"the stage mixes by {stage.data.mixture.kind}, and the data do not say which group they belong to",
            where=path,
            known=groups,
            do="write `group: NAME` beside `annotations` in the own-data file",
        )
    return source.replace(group=groups[0])


def _split(added: str) -> tuple[Path, float]:
    path, colon, weight = added.rpartition(":")
    if not colon or Path(added).is_file():
        return Path(added), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{weight!r} is no weight",
            where=f"--add {added}",
            do="write --add FILE:WEIGHT, for example shelves.yaml:2.5",
        )
    return Path(path), value


def _entries(
    own: Described, learns: Sequence[str], weight: float, cache: Path, judged: Mapping[str, str]
) -> tuple[dict[str, Source], dict[str, Validation], list[str]]:
    """Training sources and validation sets by name, and what was left out."""
    asks = (*learns, "ask") if "converse" in learns else tuple(learns)
    train, lost = _serving(own.train, learns, "train", cache)
    val, lost_val = _serving(own.val, asks, "val", cache)
    if not train:
        raise DataError(
            f"nothing in {own.name!r} can serve: {'; '.join(lost)}",
            where=f"{own.path}, train",
            known=learns,
            do="give annotations of a format that serves one of these tasks (`mmcore data formats`), or another family",
        )
    sources = {name: part.source(weight) for name, part in _named(own.name, train)}
    validation = {
        name: _judged(part, part.validation(before=own.before), judged) for name, part in _named(f"{own.name}_val", val)
    }
    return sources, validation, [f"{LEFT_OUT}: {line}" for line in (*lost, *lost_val)]


def _judged(part: Part, entry: Validation, judged: Mapping[str, str]) -> Validation:
    """The validation set with the figure that the family judges it by."""
    figure = next((figure for task, figure in judged.items() if task in part.tasks), None)
    return entry if figure is None else entry.replace(metrics=(figure,))


def _with_known_classes(own: Described, cache: Path) -> Described:
    """The data, each file with what `classes` says of the classes that it has: one map may serve several files.

    Raises:
        RecipeError: no file has a class that is named.
    """
    parts = (*own.train, *own.val)
    known = [_categories(part, cache) if part.classes else () for part in parts]
    every = list(dict.fromkeys(name for names in known for name in names))
    have = {plain(name) for name in every}
    for name in dict.fromkeys(name for part in parts for name in part.classes):
        if name != REST and plain(name) not in have:
            raise RecipeError(
                f"no annotations have a class {name!r}",
                where=f"{own.path}, classes",
                known=every,
                do=suggest(name, every, "name one of these, or leave it out"),
            )
    fitted = []
    for part, names in zip(parts, known, strict=True):
        own_names = {plain(name) for name in names}
        classes = {name: called for name, called in part.classes.items() if name == REST or plain(name) in own_names}
        fitted.append(replace(part, classes=classes))
    return replace(own, train=tuple(fitted[: len(own.train)]), val=tuple(fitted[len(own.train) :]))


def _categories(part: Part, cache: Path) -> Sequence[str]:
    """The classes of a part as its annotations name them."""
    index = replace(part, classes={}).index(cache)
    return index.meta["categories"] if index is not None else ()


def _serving(parts: Sequence[Part], tasks: Sequence[str], split: str, cache: Path) -> tuple[list[Part], list[str]]:
    """The parts that serve one of the tasks, and why the others do not."""
    kept = [part for part in parts if any(task in tasks for task in part.tasks)]
    return kept, [_why(part, tasks, split, cache) for part in parts if part not in kept]


def _why(part: Part, tasks: Sequence[str], split: str, cache: Path) -> str:
    """Why a part cannot serve, and how many records that are."""
    served = ", ".join(part.tasks) or "none of the tasks it is wanted for"
    return (
        f"{split} {', '.join(part.annotations)} ({part.count(cache)}) serves {served}; learned are {', '.join(tasks)}"
    )


def _named(name: str, parts: Sequence[Part]) -> list[tuple[str, Part]]:
    return [(name if number == 1 else f"{name}_{number}", part) for number, part in enumerate(parts, 1)]
