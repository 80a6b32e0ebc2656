"""Exactly one family and the named extensions under one pluggy manager, a fresh one each time, and calls that name who
failed."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from mmcore.base.failure import refusal
from mmcore.contract import hookspecs
from mmcore.errors import MmcoreError, PluginError
from mmcore.plugins.explain import explain_error, failure_remedy, upgrade
from mmcore.plugins.find import load
from mmcore.plugins.plugin import GROUP, Plugin

REQUIRED = ("stage_params", "build_model", "build_datasets")
"""Hooks that a run cannot do without."""


class Manager(pluggy.PluginManager):
    """pluggy's, with what is registered by name."""

    def __init__(self) -> None:
        super().__init__(GROUP)
        self.plugins: dict[str, Plugin] = {}
        self.add_hookspecs(hookspecs)


def manager(family: str | Plugin, extensions: Sequence[str] = ()) -> Manager:
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
    result = Manager()
    added = [_load_extension(name) for name in dict.fromkeys(extensions)]
    # pluggy calls later registrations first; the family is registered last so that `post_train` and joined
    # results start with it.
    for plugin in [*reversed(added), chosen]:
        assert plugin.module is not None
        if result.is_registered(plugin.module):
            raise PluginError(f"{plugin.label} is there twice under two names", where="--plugin and --with")
        result.register(plugin.module, name=plugin.name)
        result.plugins[plugin.name] = plugin
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
    for hook, do in (
        ("stage_params", "wrap it: @mmcore.hookimpl(wrapper=True), see docs/hooks.md"),
        ("family", "leave it out; its package's summary is its title"),
    ):
        if plugin.answers(hook):
            raise PluginError(
                f"an extension's {hook} is never asked: only the family answers it",
                where=f"--with {name}, plugin {plugin.label}",
                do=do,
            )
    return plugin


def call(hooks: Manager, plugin: Plugin, hook: str, **arguments: Any) -> Any:
    """Call a hook; an exception that is not ours names the plugin that raised it, its version and the hook.

    Returns:
        The first answer or all of them, as the hook's specification says; None or nothing where nobody answers.
    Raises:
        PluginError: a hook that a run needs is missing, or one raised.
    """
    caller = vars(hooks.hook)[hook]
    if hook in REQUIRED and not caller.get_hookimpls():
        do = upgrade(plugin.distribution, plugin.name)
        raise PluginError(f"does not implement {hook}", where=f"plugin {plugin.label}", do=do)
    try:
        return caller(**arguments)
    except (MmcoreError, KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if (refused := refusal(error)) is not None:
            raise refused from error
        culprit = _culprit(hooks, hook, error) or plugin
        raise PluginError(
            f"{hook} failed: {explain_error(error)}",
            where=f"plugin {culprit.label}",
            do=failure_remedy(error, culprit.distribution),
        ) from error


def _culprit(hooks: Manager, hook: str, error: BaseException) -> Plugin | None:
    """The plugin whose implementation stands deepest in the traceback."""
    owners = {impl.function.__code__: impl.plugin_name for impl in vars(hooks.hook)[hook].get_hookimpls()}
    found, frame = None, error.__traceback__
    while frame is not None:
        found = owners.get(frame.tb_frame.f_code, found)
        frame = frame.tb_next
    return hooks.plugins.get(found) if found else None


# MMCORE_TRACE=1


def _trace_before(hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    names = ", ".join(impl.plugin_name for impl in reversed(hook_impls))
    print(f"[mmcore] {hook_name}({', '.join(kwargs)}) -> {names}", file=sys.stderr)


def _trace_after(outcome: Any, hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    error = outcome.exception
    print(f"[mmcore] {hook_name} {f'raised {error!r}' if error else 'done'}", file=sys.stderr)
