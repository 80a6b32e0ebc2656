"""The classes of own data that a recipe names as its own sources, without an own-data file.

A source that the family's recipe does not have, or all sources of a run where none reads what the recipe says, are
somebody's own data: their class names go into the settings like those of `--own`, and so into run, exports and
the default of `predict`.
"""

from collections.abc import Mapping
from pathlib import Path

from mmcore.contract.recipe import Source, Stage
from mmcore.data.formats.registry import Formats
from mmcore.data.names import merged
from mmcore.data.own import Part
from mmcore.errors import MmcoreError


def with_class_names(
    stage: Stage, recipe: Stage, sources: Mapping[str, Source], formats: Formats, root: Path, cache: Path
) -> Stage:
    """The stage with the class names of own data among its sources; as it is where it has some, or no own data.

    Args:
        stage: as it was settled.
        recipe: the family's own.
        sources: those of the run.
        formats: all that are known.
        root: the data folder.
        cache: folder that holds indexes.
    """
    if stage.class_names:
        return stage
    names = {name: _class_names(source, formats, root, cache) for name, source in _own(sources, recipe).items()}
    found = merged([name for one in names.values() for name in one])[0]
    return stage.replace(class_names=found) if found else stage


def _own(sources: Mapping[str, Source], recipe: Stage) -> dict[str, Source]:
    """The sources of own data: those under names of their own, else all where none is as the recipe has it."""
    published = recipe.data.sources
    if new := {name: source for name, source in sources.items() if name not in published}:
        return new
    changed = {name: source for name, source in sources.items() if _reads(source) != _reads(published[name])}
    return changed if len(changed) == len(sources) else {}


def _reads(source: Source) -> tuple[object, ...]:
    return source.root, source.format, source.annotations, source.classes


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
