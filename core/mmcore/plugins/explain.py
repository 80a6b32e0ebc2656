"""Words for what somebody else's code did: exceptions on one line, and what a user can do about a plugin."""

import json
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import unquote, urlsplit

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
        if folder := editable_folder(distribution):
            return f"pip install {package}, and name it among the dependencies of {folder}/pyproject.toml"
        return f"install what it needs ({package}): pip install --upgrade {distribution}"
    return upgrade(distribution)


def upgrade(distribution: str) -> str:
    """What to do about a plugin that does not fit: its author corrects it, everybody else takes another version."""
    if folder := editable_folder(distribution):
        return f"correct it in {folder}; `mmcore plugins check NAME --debug` shows file, line and traceback"
    return f"pip install --upgrade {distribution}, or pip uninstall {distribution}"


def editable_folder(distribution: str) -> str | None:
    """Where the source of an editable installation lies; None for an ordinary one."""
    try:
        told = metadata.distribution(distribution).read_text("direct_url.json")
        found = json.loads(told or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if not found.get("dir_info", {}).get("editable"):
        return None
    return unquote(urlsplit(found.get("url", "")).path) or None


def shape_of(value: Any) -> str:
    """A value's type for messages, with what a list holds."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {', '.join(sorted({type(entry).__name__ for entry in value})) or 'nothing'}"
    return "nothing" if value is None else type(value).__name__
