"""Words for what somebody else's code did: exceptions on one line, and what a user can do about a plugin."""

from importlib.metadata import EntryPoint
from typing import Any

from pydantic import ValidationError

from mmcore.errors import MmcoreError


def explain_error(error: BaseException) -> str:
    """One line about an exception of a plugin's code."""
    if isinstance(error, SystemExit):
        return f"it called exit({error.code})"
    if isinstance(error, MmcoreError):
        return f"{type(error).__name__}: {error.what}" + (f" ({error.do})" if error.do else "")
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        return f"{error.title}.{key}: {first['msg'].lower()}, got {first['input']!r}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def import_remedy(error: BaseException, point: EntryPoint, distribution: str) -> str:
    """What to do about a plugin that cannot be imported."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and missing != point.module:
        package = missing.partition(".")[0]
        return f"install what it needs ({package}): pip install --upgrade {distribution}"
    return upgrade(distribution)


def upgrade(distribution: str) -> str:
    """What to do about a plugin that does not fit."""
    return f"pip install --upgrade {distribution}, or pip uninstall {distribution}"


def shape_of(value: Any) -> str:
    """A value's type for messages, with what a list holds."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {', '.join(sorted({type(entry).__name__ for entry in value})) or 'nothing'}"
    return "nothing" if value is None else type(value).__name__
