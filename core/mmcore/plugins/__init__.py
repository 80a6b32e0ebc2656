"""Plugins: found, verified, called; the scaffold of new ones. What callers need is here."""

from mmcore.plugins.calls import Manager, call, manager
from mmcore.plugins.find import inspect_all, installed, load
from mmcore.plugins.plugin import Plugin, Problem, implementations, known_hooks
from mmcore.plugins.recipes import find_stage, stages
from mmcore.plugins.verify import suspicions

__all__ = [
    "Manager",
    "Plugin",
    "Problem",
    "call",
    "find_stage",
    "implementations",
    "inspect_all",
    "installed",
    "known_hooks",
    "load",
    "manager",
    "stages",
    "suspicions",
]
