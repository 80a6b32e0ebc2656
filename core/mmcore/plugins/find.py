"""Find, load, verify and describe plugins. Returns a fresh manager each time and keeps none.

Plugins are installed distributions with an entry point in group `mmcore`. Only the chosen family and the extensions
named by --with are ever imported for a run, inside an error envelope: a broken neighbour is reported by
`mmcore plugins` and cannot stop anything.

A family brings a model (`build_model`); an extension adds data sources, wraps hooks or adds a step after training.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from mmcore.contract import hookspecs
from mmcore.contract.recipe import Stage
from mmcore.errors import MmcoreError, PluginError, RecipeError, suggest
from mmcore.version import API_VERSION, __version__

GROUP = "mmcore"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plugin cannot be used, and what to do about it."""

    what: str
    do: str
    cause: BaseException | None = None


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
    trouble: Problem | None = None

    @property
    def label(self) -> str:
        """`glee (mmcore-glee 0.1.0)`, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"

    @property
    def problem(self) -> str | None:
        """What is wrong with it, one line, or None."""
        return self.trouble.what if self.trouble else None

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks it answers or wraps, in the order of a run."""
        found = _implementations(self.module) if self.module else {}
        return tuple(hook for hook in known_hooks() if hook in found)

    @property
    def is_family(self) -> bool:
        """Whether it brings a model, rather than only extending another plugin's run."""
        return self.module is not None and _answers(self.module, "build_model")

    @property
    def title(self) -> str:
        """One line about it, or nothing."""
        return str(getattr(self.module, "TITLE", "")) if self.module else ""

    @property
    def variants(self) -> tuple[str, ...]:
        """Published sizes in the plugin's order; the first is the default."""
        return tuple(getattr(self.module, "VARIANTS", ())) if self.module and not self.trouble else ()

    def describe(self) -> dict[str, Any]:
        """Plain values for `mmcore plugins list --json`."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "kind": None if self.module is None else "family" if self.is_family else "extension",
            "title": self.title,
            "variants": list(self.variants),
            "hooks": list(self.hooks),
            "problem": self.problem,
            "remedy": self.trouble.do if self.trouble else None,
        }


def known_hooks() -> dict[str, tuple[str, ...]]:
    """Every hook of the contract with its arguments, in the order of a run."""
    checker = _empty_manager()
    names = [name for name, value in vars(hookspecs).items() if hasattr(value, "mmcore_spec")]
    return {name: tuple(getattr(checker.hook, name).spec.argnames) for name in names}


def installed() -> dict[str, EntryPoint]:
    """Entry points of every installed plugin by name; nothing is imported."""
    return {name: points[0] for name, points in _find().items()}


def _find() -> dict[str, list[EntryPoint]]:
    """Name -> its entry points; more than one when several distributions claim the name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _source(point))):
        points = found.setdefault(point.name, [])
        # The same distribution shows up twice when its metadata lies on two entries of the search path.
        if all(_source(point)[0] != _source(other)[0] for other in points):
            points.append(point)
    return found


def _source(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("?", "?")


def load(name: str, option: str = "--plugin") -> Plugin:
    """Import one plugin and check what can be checked without running it.

    Args:
        name: its entry point.
        option: what named it, for messages.

    Raises:
        PluginError: it is not installed, fails to import, needs another core API or implements an unknown hook.
    """
    found = _find()
    if name not in found:
        raise PluginError(
            f"no plugin named {name!r} is installed",
            where=f"{option} {name}",
            known=found or "none",
            do=suggest(name, found, f"pip install mmcore-{name}, or see `mmcore plugins`"),
        )
    plugin = _inspect(found[name])
    if plugin.trouble:
        raise PluginError(plugin.trouble.what, where=f"plugin {plugin.label}", do=plugin.trouble.do) from (
            plugin.trouble.cause
        )
    return plugin


def inspect_plugin(point: EntryPoint) -> Plugin:
    """Import a plugin inside an envelope; whatever goes wrong ends up in `problem`."""
    return _inspect([point])


def inspect_all() -> list[Plugin]:
    """Every installed plugin, broken ones included, in order of name."""
    return [_inspect(points) for points in _find().values()]


def _inspect(points: Sequence[EntryPoint]) -> Plugin:
    point = points[0]
    distribution, version = _source(point)
    if len(points) > 1:
        owners = " and ".join(_source(other)[0] for other in points)
        trouble = Problem(f"{owners} both install a plugin of this name", f"pip uninstall {distribution}")
        return Plugin(point.name, distribution, version, trouble=trouble)
    try:
        # What a plugin prints while it is imported must not end up in the output of --json.
        with contextlib.redirect_stdout(sys.stderr):
            module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything at import, and must not take the others with it
        trouble = Problem(f"cannot be imported: {_explain_import(error)}", _import_remedy(error, point), error)
        return Plugin(point.name, distribution, version, trouble=trouble)
    if not isinstance(module, ModuleType):
        trouble = Problem(
            f"its entry point {point.value!r} names a {type(module).__name__}, not a module", _upgrade(distribution)
        )
        return Plugin(point.name, distribution, version, trouble=trouble)
    return Plugin(point.name, distribution, version, module, _verify(module, point))


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
    added = [_load_extension(name) for name in dict.fromkeys(extensions)]
    # pluggy calls later registrations first; the family is registered last so that `post_train` and joined
    # results start with it.
    for plugin in [*reversed(added), chosen]:
        assert plugin.module is not None
        if result.is_registered(plugin.module):
            raise PluginError(f"{plugin.label} is there twice under two names", where="--plugin and --with")
        result.register(plugin.module, name=plugin.name)
        result.labels[plugin.name] = plugin.label
    result.check_pending()
    if os.environ.get("MMCORE_TRACE") == "1":
        result.add_hookcall_monitoring(_trace_before, _trace_after)
    return result


def _load_extension(name: str) -> Plugin:
    plugin = load(name, "--with")
    if plugin.is_family:
        raise PluginError(
            f"{plugin.name} is a family, not an extension",
            where=f"--with {name}, plugin {plugin.label}",
            do="run it with --plugin, or take its data sources through an extension plugin",
        )
    if plugin.module and _answers(plugin.module, "stage_params"):
        raise PluginError(
            "an extension's stage_params is never asked: only the family answers it",
            where=f"--with {name}, plugin {plugin.label}",
            do="wrap it: @mmcore.hookimpl(wrapper=True), see docs/hooks.md",
        )
    return plugin


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
    if not isinstance(result, (list, tuple)) or not result or not all(isinstance(stage, Stage) for stage in result):
        raise PluginError(
            f"stage_params must return a non-empty list or tuple of mmcore.Stage, not {_shape_of(result)}",
            where=f"plugin {plugin.label}, variant {variant}",
            do="report this to the plugin's author",
        )
    keys = [key for stage in result for key in (str(stage.number), stage.name)]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise PluginError(
            f"two stages share the number or name {twice!r}",
            where=f"plugin {plugin.label}, variant {variant}",
            do="report this to the plugin's author",
        )
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
    """Call a hook; an exception that is not ours names the plugin that raised it, its version and the hook.

    Raises:
        PluginError: the hook is missing or raised.
    """
    caller = getattr(hooks.hook, hook)
    if not caller.get_hookimpls():
        raise PluginError(
            f"does not implement {hook}", where=f"plugin {plugin.label}", do=_upgrade(plugin.distribution)
        )
    try:
        return caller(**arguments)
    except (MmcoreError, KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{hook} failed: {_explain_error(error)}",
            where=f"plugin {_culprit(hooks, hook, error) or plugin.label}",
            do="run again with --debug for the traceback; report it to the plugin's author",
        ) from error


class _Manager(pluggy.PluginManager):
    """pluggy's, with the labels of what is registered."""

    def __init__(self) -> None:
        super().__init__(GROUP)
        self.labels: dict[str, str] = {}
        self.add_hookspecs(hookspecs)


def _empty_manager() -> _Manager:
    return _Manager()


def _implementations(module: ModuleType) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    """Hook name -> the function marked with `@hookimpl` and the mark's options."""
    marked = [(name, value, getattr(value, "mmcore_impl", None)) for name, value in vars(module).items()]
    return {mark.get("specname") or name: (value, mark) for name, value, mark in marked if isinstance(mark, dict)}


def _answers(module: ModuleType, hook: str) -> bool:
    """Whether the module gives its own answer to a hook, rather than wrapping another plugin's."""
    found = _implementations(module).get(hook)
    return found is not None and not found[1]["wrapper"] and not found[1]["hookwrapper"]


# What can be wrong with a plugin


def _verify(module: ModuleType, point: EntryPoint) -> Problem | None:
    distribution = _source(point)[0]
    what = (
        _wrong_core(point.dist)
        or _wrong_api(module)
        or _wrong_variants(module)
        or _unmarked_hook(module)
        or _unfit_hook(module, point.name)
    )
    return Problem(what, _upgrade(distribution)) if what else None


def _wrong_core(distribution: Distribution | None) -> str | None:
    """pip refuses this, but --no-deps and a later upgrade of the core do not."""
    for text in (distribution.requires or []) if distribution else []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        about_core = canonicalize_name(requirement.name) == "mmcore" and applies and __version__ != "0.0.0"
        if about_core and not requirement.specifier.contains(__version__, prereleases=True):
            return f"needs mmcore{requirement.specifier}, this is {__version__}"
    return None


def _wrong_api(module: ModuleType) -> str | None:
    wanted = getattr(module, "REQUIRES_API", None)
    if wanted is None:
        return None
    try:
        fits = SpecifierSet(wanted).contains(API_VERSION, prereleases=True)
    except (InvalidSpecifier, TypeError, AttributeError):
        return f"REQUIRES_API {wanted!r} is not a version range such as '>=0.1,<1'"
    return None if fits else f"needs the mmcore API {wanted}, this is {API_VERSION}"


def _wrong_variants(module: ModuleType) -> str | None:
    variants = getattr(module, "VARIANTS", ())
    named = isinstance(variants, (list, tuple)) and all(isinstance(name, str) and name for name in variants)
    return None if named else f"VARIANTS must be a list or tuple of names, not {variants!r}"


def _unmarked_hook(module: ModuleType) -> str | None:
    """A function with a hook's name that lacks the mark would never be called, in silence."""
    found = _implementations(module)
    for hook in known_hooks():
        if hook not in found and callable(getattr(module, hook, None)):
            return f"its {hook} is not marked with @mmcore.hookimpl and would never be called"
    return None


def _unfit_hook(module: ModuleType, name: str) -> str | None:
    checker = _empty_manager()
    try:
        checker.register(module, name=name)
        checker.check_pending()
    except pluggy.PluginValidationError as error:
        return _explain_hook(module, error)
    return None


def _explain_hook(module: ModuleType, error: pluggy.PluginValidationError) -> str:
    """Turn pluggy's message into one that names the hook or argument and the nearest real one."""
    hooks = known_hooks()
    for hook, (function, _) in _implementations(module).items():
        if hook not in hooks:
            return f"implements the unknown hook {hook!r}; {suggest(hook, hooks, 'known: ' + ', '.join(hooks))}"
        code = getattr(function, "__code__", None)
        taken = code.co_varnames[: code.co_argcount] if code else ()
        for argument in taken:
            if argument not in hooks[hook]:
                advice = suggest(argument, hooks[hook], f"it is given {', '.join(hooks[hook])}")
                return f"its {hook} asks for the unknown argument {argument!r}; {advice}"
    return f"a hook does not fit its specification: {str(error).splitlines()[-1].strip()}"


def _explain_import(error: BaseException) -> str:
    return f"it called exit({error.code})" if isinstance(error, SystemExit) else _explain_error(error)


def _explain_error(error: BaseException) -> str:
    """One line about an exception of somebody else's code."""
    if isinstance(error, MmcoreError):
        return f"{type(error).__name__}: {error.what}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        return f"{error.title}.{key}: {first['msg'].lower()}, got {first['input']!r}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _import_remedy(error: BaseException, point: EntryPoint) -> str:
    distribution = _source(point)[0]
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and missing != point.module:
        package = missing.partition(".")[0]
        return f"install what it needs ({package}): pip install --upgrade {distribution}"
    return _upgrade(distribution)


def _upgrade(distribution: str) -> str:
    return f"pip install --upgrade {distribution}, or pip uninstall {distribution}"


def _shape_of(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {', '.join(sorted({type(entry).__name__ for entry in value})) or 'nothing'}"
    return "nothing" if value is None else type(value).__name__


def _culprit(hooks: pluggy.PluginManager, hook: str, error: BaseException) -> str | None:
    """The label of the plugin whose implementation stands deepest in the traceback."""
    owners = {impl.function.__code__: impl.plugin_name for impl in getattr(hooks.hook, hook).get_hookimpls()}
    labels: dict[str, str] = getattr(hooks, "labels", {})
    found, frame = None, error.__traceback__
    while frame is not None:
        found = owners.get(frame.tb_frame.f_code, found)
        frame = frame.tb_next
    return labels.get(found) if found else None


# MMCORE_TRACE=1


def _trace_before(hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    names = ", ".join(impl.plugin_name for impl in reversed(hook_impls))
    print(f"[mmcore] {hook_name}({', '.join(kwargs)}) -> {names}", file=sys.stderr)


def _trace_after(outcome: Any, hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    error = outcome.exception
    print(f"[mmcore] {hook_name} {f'raised {error!r}' if error else 'done'}", file=sys.stderr)
