"""Words for what somebody else's code did: exceptions on one line, and what a user can do about a plugin."""

import json
import traceback
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
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
            return _to_install(missing, folder)
        return f"install what it needs ({package}): pip install --upgrade {distribution}"
    return upgrade(distribution, point.name)


def failure_remedy(error: BaseException, distribution: str) -> str:
    """What to do about a hook that raised: its author corrects the line, everybody else tells the author."""
    folder = editable_folder(distribution)
    if folder is None:
        return "run again with --debug for the traceback; report it to the plugin's author"
    if isinstance(error, ModuleNotFoundError) and error.name and not (Path(folder) / error.name.split(".")[0]).exists():
        return _to_install(error.name, folder)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else folder
    return f"correct it at {place}; --debug shows the traceback"


def _to_install(module: str, folder: str) -> str:
    return f"pip install {module.partition('.')[0]}, and name it among the dependencies of {folder}/pyproject.toml"


def upgrade(distribution: str, name: str = "NAME") -> str:
    """What to do about a plugin that does not fit: its author corrects it, everybody else takes another version."""
    if folder := editable_folder(distribution):
        return f"correct it in {folder}; `mmcore plugins check {name} --debug` shows file, line and traceback"
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
