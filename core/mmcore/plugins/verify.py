"""What can be wrong with a plugin's module, found before anything of it runs: versions, hooks, who it says it is.

`mmcore plugins check` also asks for what is only likely to be a mistake (`suspicions`).
"""

import inspect
from importlib.metadata import Distribution
from types import ModuleType

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from mmcore.contract import hookspecs
from mmcore.contract.family import Family
from mmcore.errors import nearest, suggest
from mmcore.plugins.explain import explain_error, shape_of
from mmcore.plugins.plugin import GROUP, implementations, known_hooks
from mmcore.version import API_VERSION, DISTRIBUTION, __version__

FORMER = {"TITLE": "title", "VARIANTS": "variants", "HUB": "hub", "REQUIRES_API": "requires_api"}
"""Module attributes that earlier cores read, and the entry of `Family` that took their place."""


def what_is_wrong(module: ModuleType, name: str, distribution: Distribution | None) -> str | None:
    """The first reason why a module cannot serve as a plugin, or None.

    Args:
        module: of the plugin.
        name: its entry point.
        distribution: what installed it.
    """
    return _wrong_core(distribution) or _unmarked_hook(module) or _unfit_hook(module, name)


def who_it_is(module: ModuleType, name: str) -> tuple[Family | None, str | None]:
    """A family's own answer to `family`, and what is wrong with it; neither for an extension."""
    found = implementations(module)
    if "build_model" not in found or _only_wraps(module, "build_model"):
        return None, None
    if "family" not in found:
        return None, "answers build_model but not the hook family: nobody knows its title and variants"
    try:
        family = found["family"][0]()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        return None, f"its hook family failed: {explain_error(error)}"
    if not isinstance(family, Family):
        return None, f"its hook family must return a mmcore.Family, not {shape_of(family)}"
    if family.name != name:
        return None, f"it calls itself {family.name!r}, its entry point {name!r}"
    if wrong := _wrong_api(family.requires_api):
        return None, wrong
    return family, None


def suspicions(module: ModuleType) -> list[str]:
    """What is legal, would never be read, and looks like a mistake; each a sentence with what was meant."""
    found = [
        f"{name} is read by nobody; say it in the hook family: Family({entry}=...)"
        for name, entry in FORMER.items()
        if name in vars(module)
    ]
    hooks = known_hooks()
    for name, value in vars(module).items():
        own = inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        near = nearest(name, hooks, 0.8) if own and name not in hooks else None
        if near and not isinstance(getattr(value, "mmcore_impl", None), dict):
            found.append(f"{name} is no hook and would never be called; did you mean {near!r}?")
    return found


def _only_wraps(module: ModuleType, hook: str) -> bool:
    mark = implementations(module)[hook][1]
    return bool(mark["wrapper"] or mark["hookwrapper"])


def _wrong_core(distribution: Distribution | None) -> str | None:
    """pip refuses this, but --no-deps and a later upgrade of the core do not."""
    for text in (distribution.requires or []) if distribution else []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and canonicalize_name(requirement.name) == "mmcore":
            return f"requires {requirement}, which on the package index is somebody else's; write {DISTRIBUTION}"
        about_core = canonicalize_name(requirement.name) == DISTRIBUTION and applies and __version__ != "0.0.0"
        if about_core and not requirement.specifier.contains(__version__, prereleases=True):
            return f"needs {DISTRIBUTION}{requirement.specifier}, this is {__version__}"
    return None


def _wrong_api(wanted: str) -> str | None:
    try:
        fits = SpecifierSet(wanted).contains(API_VERSION, prereleases=True)
    except InvalidSpecifier:
        return f"Family.requires_api {wanted!r} is not a version range such as '>=0.1,<1'"
    return None if fits else f"needs the mmcore API {wanted}, this is {API_VERSION}"


def _unmarked_hook(module: ModuleType) -> str | None:
    """A function with a hook's name that lacks the mark would never be called, in silence."""
    found = implementations(module)
    for hook in known_hooks():
        if hook not in found and callable(vars(module).get(hook)):
            return f"its {hook} is not marked with @mmcore.hookimpl and would never be called"
    return None


def _unfit_hook(module: ModuleType, name: str) -> str | None:
    checker = pluggy.PluginManager(GROUP)
    checker.add_hookspecs(hookspecs)
    try:
        checker.register(module, name=name)
        checker.check_pending()
    except pluggy.PluginValidationError as error:
        return _explain_hook(module, error)
    return None


def _explain_hook(module: ModuleType, error: pluggy.PluginValidationError) -> str:
    """Turn pluggy's message into one that names the hook or argument and the nearest real one."""
    hooks = known_hooks()
    for hook, (function, _) in implementations(module).items():
        if hook not in hooks:
            return f"implements the unknown hook {hook!r}; {suggest(hook, hooks, 'known: ' + ', '.join(hooks))}"
        for argument in inspect.signature(function).parameters:
            if argument not in hooks[hook]:
                advice = suggest(argument, hooks[hook], f"it is given {', '.join(hooks[hook]) or 'nothing'}")
                return f"its {hook} asks for the unknown argument {argument!r}; {advice}"
    return f"a hook does not fit its specification: {str(error).splitlines()[-1].strip()}"
