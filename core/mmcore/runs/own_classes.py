"""The class names that a run learns where somebody's own data are among its sources.

Own data are those of an own-data file, a source that the family's recipe does not have, or all sources of a run where
none reads what the recipe says. Their names and those of the recipe's sources beside them go into the settings, and so
into run, exports and the default of `predict`.

Data sets that are mixed are annotated by different lists: a person in a picture of shelves is no error of whoever
named forklifts. So each own entry keeps the names of its own set, and what is absent is asked of these alone.
"""

from collections.abc import Mapping
from pathlib import Path

from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.data.formats.registry import Formats
from mmcore.data.names import merged, plain
from mmcore.data.own import Part
from mmcore.errors import MmcoreError

NAMELESS = {"object", "objects"}
"""What the one class of a published set without classes is called."""


def with_class_names(
    stage: Stage, recipe: Stage, sources: Mapping[str, Source], formats: Formats, root: Path, cache: Path
) -> Stage:
    """The stage with the class names of its sources, where own data are among them; else as it is.

    Args:
        stage: as it was settled.
        recipe: the family's own.
        sources: those of the run.
        formats: all that are known.
        root: the data folder.
        cache: folder that holds indexes.
    """
    own = _own(sources, recipe)
    if not own:
        return stage
    names = {name: source.class_names or _class_names(source, formats, root, cache) for name, source in sources.items()}
    names = {name: one for name, one in names.items() if name in own or set(map(plain, one)) - NAMELESS}
    found = merged([name for one in names.values() for name in one])[0]
    if not found:
        return stage
    named = {name: names[name] for name in own if not own[name].root and not _alike(names[name], found)}
    changed = {name: stage.data.sources[name].replace(class_names=one) for name, one in named.items()}
    data = stage.data.replace(sources={**stage.data.sources, **changed})
    return stage.replace(class_names=found, data=data, validation=_of_them(stage.validation, named))


def _own(sources: Mapping[str, Source], recipe: Stage) -> dict[str, Source]:
    """The sources of own data: those under names of their own, else all where none is as the recipe has it."""
    published = recipe.data.sources
    if new := {name: source for name, source in sources.items() if name not in published}:
        return new
    changed = {name: source for name, source in sources.items() if _reads(source) != _reads(published[name])}
    return changed if len(changed) == len(sources) else {}


def _reads(source: Source) -> tuple[object, ...]:
    return source.root, source.format, source.annotations, source.classes


def _alike(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return set(map(plain, names)) == set(map(plain, others))


def _of_them(validation: Mapping[str, Validation], named: Mapping[str, tuple[str, ...]]) -> dict[str, Validation]:
    """The validation sets, NAME_val and those that say `of: NAME` with the class names of that source."""
    belongs = {name: str(one.options.get("of", name.partition("_val")[0])) for name, one in validation.items()}
    return {
        name: one.replace(class_names=named[belongs[name]]) if belongs[name] in named and not one.class_names else one
        for name, one in validation.items()
    }


def _class_names(source: Source, formats: Formats, root: Path, cache: Path) -> tuple[str, ...]:
    """Of one source; none where its files cannot be read, which is told where they are opened."""
    annotations = (source.annotations,) if isinstance(source.annotations, str) else source.annotations
    try:
        format = formats.named(source.format, "a source")
        tasks = tuple(task for task in format.tasks if not source.tasks or task in source.tasks)
        part = Part(
            format, Path(source.root or root), annotations, source.images, source.options, tasks, None, source.classes
        )
        return part.class_names(cache)
    except MmcoreError:
        return ()
