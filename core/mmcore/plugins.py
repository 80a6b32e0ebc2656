"""Find, load, verify and describe plugins. Returns a fresh manager each time and keeps none.

Plugins are installed distributions with an entry point in group `mmcore`. Only the chosen family and the extensions
named by --with are ever imported for a run, inside an error envelope: a broken neighbour is reported by
`mmcore plugins` and cannot stop anything.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mmcore import hookspecs
from mmcore.errors import PluginError, RecipeError, suggest
from mmcore.recipe import Stage
from mmcore.version import API_VERSION

GROUP = "mmcore"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin: where it comes from, and the module or why there is none.

    A plugin's top module may define `VARIANTS` (published sizes, the first is the default), `TITLE` (one line),
    `REQUIRES_API` (a version range of the core API such as ">=0.1,<1") and `HUB` (published checkpoints).
    """

    name: str
    distribution: str
    version: str
    module: ModuleType | None = None
    problem: str | None = None

    @property
    def label(self) -> str:
        """`glee (mmcore-glee 0.1.0)`, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"

    @property
    def is_family(self) -> bool:
        """Whether it brings a model, rather than only extending another plugin's run."""
        return self.module is not None and hasattr(self.module, "build_model")

    @property
    def title(self) -> str:
        return str(getattr(self.module, "TITLE", "")) if self.module else ""

    @property
    def variants(self) -> tuple[str, ...]:
        """Published sizes in the plugin's order; the first is the default."""
        return tuple(getattr(self.module, "VARIANTS", ())) if self.module else ()


def installed() -> dict[str, EntryPoint]:
    """Entry points of every installed plugin by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load(name: str) -> Plugin:
    """Import one plugin and check what can be checked without running it.

    Raises:
        PluginError: it is not installed, fails to import, needs another core API or implements an unknown hook.
    """
    points = installed()
    if name not in points:
        raise PluginError(
            f"no plugin named {name!r} is installed",
            where=f"--plugin {name}",
            known=points or "none",
            do=suggest(name, points, f"pip install mmcore-{name}, or see `mmcore plugins`"),
        )
    plugin = inspect_plugin(points[name])
    if plugin.problem:
        raise PluginError(plugin.problem, where=f"plugin {plugin.label}", do=_remedy(plugin))
    return plugin


def inspect_plugin(point: EntryPoint) -> Plugin:
    """Import a plugin inside an envelope; whatever goes wrong ends up in `problem`."""
    distribution = point.dist.name if point.dist else "?"
    version = point.dist.version if point.dist else "?"
    try:
        module = point.load()
    except Exception as error:  # a plugin may raise anything at import, and must not take the others with it
        reason = f"cannot be imported: {type(error).__name__}: {error}"
        return Plugin(point.name, distribution, version, problem=reason)
    except SystemExit as error:
        return Plugin(point.name, distribution, version, problem=f"cannot be imported: it called exit({error.code})")
    return Plugin(point.name, distribution, version, module, _problem(module, point.name))


def inspect_all() -> list[Plugin]:
    """Every installed plugin, broken ones included, in order of name."""
    return [inspect_plugin(point) for point in installed().values()]


def manager(family: str | Plugin, extensions: Sequence[str] = ()) -> pluggy.PluginManager:
    """A fresh manager that holds exactly one family and the named extensions, with every hook verified.

    Raises:
        PluginError: a plugin is missing, broken or incompatible, or `family` brings no model.
    """
    chosen = load(family) if isinstance(family, str) else family
    if not chosen.is_family:
        raise PluginError(
            f"{chosen.name} brings no model",
            where=f"plugin {chosen.label}",
            do=f"it extends another family: --plugin FAMILY --with {chosen.name}",
        )
    result = _empty_manager()
    # pluggy calls later registrations first; the family is registered last so that `post_train` and joined
    # results start with it.
    for plugin in [*(load(name) for name in reversed(extensions)), chosen]:
        if plugin is not chosen and plugin.is_family:
            raise PluginError(
                f"{plugin.name} is a family, not an extension",
                where=f"--with {plugin.name}",
                do="run it with --plugin, or take its data sources through an extension plugin",
            )
        result.register(plugin.module, name=plugin.name)
    result.check_pending()
    if os.environ.get("MMCORE_TRACE") == "1":
        result.add_hookcall_monitoring(_trace_before, _trace_after)
    return result


def stages(hooks: pluggy.PluginManager, plugin: Plugin, variant: str) -> tuple[Stage, ...]:
    """The family's stages for one variant, checked for being stages with distinct numbers and names.

    Raises:
        PluginError: the hook fails or returns something else.
        RecipeError: the variant does not exist.
    """
    if plugin.variants and variant not in plugin.variants:
        raise RecipeError(
            f"{plugin.name} has no variant {variant!r}",
            where=f"--variant {variant}, plugin {plugin.label}",
            known=plugin.variants,
            do=suggest(variant, plugin.variants, "choose one of these"),
        )
    result = call(hooks, plugin, "stage_params", variant=variant)
    if not result or not all(isinstance(stage, Stage) for stage in result):
        raise PluginError(
            "stage_params must return a non-empty sequence of mmcore.Stage",
            where=f"plugin {plugin.label}",
            do="report this to the plugin's author",
        )
    names = [key for stage in result for key in (str(stage.number), stage.name)]
    if len(set(names)) != len(names):
        raise PluginError("two stages share a number or a name", where=f"plugin {plugin.label}")
    return tuple(result)


def find_stage(all_stages: Sequence[Stage], wanted: str, plugin: Plugin) -> Stage:
    """The stage with this number or name.

    Raises:
        RecipeError: there is none.
    """
    for stage in all_stages:
        if wanted in (str(stage.number), stage.name):
            return stage
    known = [f"{stage.number} {stage.name}" for stage in all_stages]
    names = [stage.name for stage in all_stages]
    raise RecipeError(
        f"{plugin.name} has no stage {wanted}",
        where=f"--stage {wanted}, plugin {plugin.label}",
        known=known,
        do=suggest(wanted, names, "choose one of these, or see `mmcore plugins show " + plugin.name + "`"),
    )


def call(hooks: pluggy.PluginManager, plugin: Plugin, hook: str, **arguments: Any) -> Any:
    """Call a hook; an exception that is not ours names the plugin, its version and the hook.

    Raises:
        PluginError: the hook is missing or raised.
    """
    caller = getattr(hooks.hook, hook)
    if not caller.get_hookimpls():
        raise PluginError(f"does not implement {hook}", where=f"plugin {plugin.label}", do=_remedy(plugin))
    from mmcore.errors import MmcoreError

    try:
        return caller(**arguments)
    except (MmcoreError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"{hook} failed: {type(error).__name__}: {error}",
            where=f"plugin {plugin.label}",
            do="run again with --debug for the traceback; report it to the plugin's author",
        ) from error


def _empty_manager() -> pluggy.PluginManager:
    result = pluggy.PluginManager(GROUP)
    result.add_hookspecs(hookspecs)
    return result


def _problem(module: ModuleType, name: str) -> str | None:
    wanted = getattr(module, "REQUIRES_API", None)
    if wanted is not None:
        try:
            fits = API_VERSION in SpecifierSet(wanted)
        except InvalidSpecifier:
            return f"REQUIRES_API {wanted!r} is not a version range"
        if not fits:
            return f"needs the mmcore API {wanted}, this is {API_VERSION}"
    checker = _empty_manager()
    try:
        checker.register(module, name=name)
        checker.check_pending()
    except pluggy.PluginValidationError as error:
        return _explain(module, str(error))
    return None


def _explain(module: ModuleType, message: str) -> str:
    """Turn pluggy's message into one that names the hook and the nearest real one."""
    known = [key for key, value in vars(hookspecs).items() if hasattr(value, "mmcore_spec")]
    for key, value in vars(module).items():
        if getattr(value, "mmcore_impl", None) is not None and key not in known:
            return f"implements the unknown hook {key!r}; {suggest(key, known, 'known: ' + ', '.join(known))}"
    return f"a hook does not fit its specification: {message.splitlines()[-1].strip() or message}"


def _remedy(plugin: Plugin) -> str:
    return f"pip install --upgrade {plugin.distribution}, or pip uninstall {plugin.distribution}"


def _trace_before(hook_name: str, hook_impls: Sequence[Any], kwargs: dict[str, Any]) -> None:
    names = ", ".join(impl.plugin_name for impl in reversed(hook_impls))
    print(f"[mmcore] {hook_name} <- {names} ({', '.join(kwargs)})", file=sys.stderr)


def _trace_after(outcome: Any, hook_name: str, hook_impls: Sequence[Any], kwargs: dict[str, Any]) -> None:
    error = outcome.exception
    print(f"[mmcore] {hook_name} -> {error!r}" if error else f"[mmcore] {hook_name} done", file=sys.stderr)
