"""An installed plugin as a value: where it comes from, which hooks its module implements, or why it cannot be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import pluggy

from mmcore.contract import hookspecs
from mmcore.contract.family import Family

GROUP = "mmcore"
"""Of entry points, and pluggy's name of the project."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plugin cannot be used, and what to do about it."""

    what: str
    do: str
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin: where it comes from, and the module or why there is none."""

    name: str
    distribution: str
    version: str
    summary: str = ""
    """The distribution's own line about itself."""
    module: ModuleType | None = None
    family: Family | None = None
    """Who it is; None for an extension and for a plugin that cannot be used."""
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
        found = implementations(self.module) if self.module else {}
        return tuple(hook for hook in known_hooks() if hook in found)

    @property
    def is_family(self) -> bool:
        """Whether it brings a model, rather than only extending another plugin's run."""
        return self.answers("build_model")

    @property
    def title(self) -> str:
        """One line about it, or nothing."""
        return self.family.title if self.family else self.summary

    @property
    def variants(self) -> tuple[str, ...]:
        """Sizes of the model in the family's order; the first is the default."""
        return self.family.variants if self.family else ()

    def answers(self, hook: str) -> bool:
        """Whether it gives its own answer to a hook, rather than wrapping another plugin's."""
        found = implementations(self.module).get(hook) if self.module else None
        return found is not None and not found[1]["wrapper"] and not found[1]["hookwrapper"]

    def describe(self) -> dict[str, Any]:
        """Plain values for `mmcore plugins list --json`."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "kind": None if self.module is None else "family" if self.is_family else "extension",
            "title": self.title,
            "variants": list(self.variants),
            "hub": list(self.family.hub) if self.family else [],
            "plain_llava": list(self.family.plain_llava or ()) if self.family else [],
            "hooks": list(self.hooks),
            "problem": self.problem,
            "remedy": self.trouble.do if self.trouble else None,
        }


@cache
def known_hooks() -> dict[str, tuple[str, ...]]:
    """Every hook of the contract with its arguments, in the order of a run."""
    checker = pluggy.PluginManager(GROUP)
    checker.add_hookspecs(hookspecs)
    names = [name for name in vars(hookspecs) if name in vars(checker.hook)]
    return {name: tuple(vars(checker.hook)[name].spec.argnames) for name in names}


def implementations(module: ModuleType) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    """Hook name -> the function marked with `@hookimpl` and the mark's options."""
    marked = [(name, value, getattr(value, "mmcore_impl", None)) for name, value in vars(module).items()]
    return {mark.get("specname") or name: (value, mark) for name, value, mark in marked if isinstance(mark, dict)}
