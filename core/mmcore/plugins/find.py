"""Installed plugins: found by their entry points without importing them, then imported one by one, each in an envelope.

Plugins are installed distributions with an entry point in group `mmcore`. Only the chosen family and the extensions
named by --with are ever imported for a run: a broken neighbour is reported by `mmcore plugins` and cannot stop
anything.
"""

import contextlib
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from mmcore.errors import PluginError, suggest
from mmcore.plugins.explain import explain_error, import_remedy, upgrade
from mmcore.plugins.plugin import GROUP, Plugin, Problem
from mmcore.plugins.verify import what_is_wrong, who_it_is


def installed() -> dict[str, EntryPoint]:
    """Entry points of every installed plugin by name; nothing is imported."""
    return {name: points[0] for name, points in find_all().items()}


def load(name: str, option: str = "--plugin") -> Plugin:
    """Import one plugin and check what can be checked without running it.

    Args:
        name: its entry point.
        option: what named it, for messages.

    Raises:
        PluginError: it is not installed, fails to import, needs another core API or implements an unknown hook.
    """
    found = find_all()
    if name not in found:
        raise PluginError(
            f"no plugin named {name!r} is installed",
            where=f"{option} {name}",
            known=found or "none",
            do=suggest(
                name, found, "install the distribution that brings it, or see `mmcore plugins` for what is installed"
            ),
        )
    plugin = inspect(found[name])
    if plugin.trouble:
        raise PluginError(plugin.trouble.what, where=f"plugin {plugin.label}", do=plugin.trouble.do) from (
            plugin.trouble.cause
        )
    return plugin


def inspect_all() -> list[Plugin]:
    """Every installed plugin, broken ones included, in order of name."""
    return [inspect(points) for points in find_all().values()]


def find_all() -> dict[str, list[EntryPoint]]:
    """Name -> its entry points; more than one when several distributions claim the name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, source_of(point))):
        points = found.setdefault(point.name, [])
        # The same distribution shows up twice when its metadata lies on two entries of the search path.
        if all(source_of(point)[0] != source_of(other)[0] for other in points):
            points.append(point)
    return found


def source_of(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    return (point.dist.name, point.dist.version) if point.dist else ("?", "?")


def inspect(points: Sequence[EntryPoint]) -> Plugin:
    """Import a plugin; whatever goes wrong ends up in `trouble`."""
    point = points[0]
    distribution, version = source_of(point)
    summary = str(point.dist.metadata.json.get("summary") or "") if point.dist else ""

    def broken(what: str, do: str, cause: BaseException | None = None) -> Plugin:
        return Plugin(point.name, distribution, version, summary, trouble=Problem(what, do, cause))

    if len(points) > 1:
        owners = " and ".join(source_of(other)[0] for other in points)
        return broken(f"{owners} both install a plugin of this name", f"pip uninstall {distribution}")
    try:
        # What a plugin prints while it is imported must not end up in the output of --json.
        with contextlib.redirect_stdout(sys.stderr):
            module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything at import, and must not take the others with it
        do = import_remedy(error, point, distribution)
        return broken(f"cannot be imported: {explain_error(error)}", do, error)
    if not isinstance(module, ModuleType):
        kind = type(module).__name__
        return broken(
            f"its entry point {point.value!r} names a {kind}, not a module", upgrade(distribution, point.name)
        )
    wrong, family = what_is_wrong(module, point.name, point.dist), None
    if wrong is None:
        family, wrong = who_it_is(module, point.name)
    trouble = Problem(wrong, upgrade(distribution, point.name)) if wrong else None
    return Plugin(point.name, distribution, version, summary, module, family, trouble)
