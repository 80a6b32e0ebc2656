"""A file that lists the sources of a stage (`data.list`): read by the family, put in the place of `data.sources`."""

from pathlib import Path

from mmcore.contract.recipe import Source, Stage
from mmcore.errors import MissingDataError, PluginError, RecipeError
from mmcore.runs.config import Origins
from mmcore.runs.plugin import OpenedPlugin


def with_listed(stage: Stage, family: OpenedPlugin, root: Path) -> tuple[Stage, Origins]:
    """The stage with the sources of its list file, if it has one, and where they come from.

    Args:
        stage: its recipe, resolved.
        family: reads the file.
        root: the data root.

    Raises:
        RecipeError: the family reads no lists.
        MissingDataError: there is no such file.
        DataError: a line of it is wrong; names the line.
    """
    if stage.data.list is None:
        return stage, {}
    given = Path(stage.data.list).expanduser()
    path = next((place for place in (given, root / given) if place.is_file()), None)
    if path is None:
        raise MissingDataError(
            f"there is no list of sources {stage.data.list}",
            where="data.list",
            known=[str(Path.cwd()), str(root)],
            do="name it from here, or below the data root",
        )
    sources = family.call("listed_sources", path=path.absolute(), root=root, stage=stage)
    if sources is None:
        raise RecipeError(
            f"{family.plugin.name} reads no lists of sources",
            where=f"data.list {stage.data.list}",
            do="write a --config file with data.sources",
        )
    if not all(isinstance(source, Source) for source in sources.values()):
        raise PluginError("listed_sources gives something else than sources", where=f"plugin {family.plugin.label}")
    data = stage.data.replace(sources=dict(sources), list=None)
    return stage.replace(data=data), {f"data.sources.{name}": f"data.list {path}" for name in sources}
