"""JSON that somebody else may have written, cut or made hostile: one strict reader for everything a run folder holds.

A reader gets an object with the keys and types it needs, or one of two errors. Nothing is read through a pipe or a
device, nothing of unbounded size; nesting is bounded by the interpreter's recursion limit, whose error is caught here.
"""

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20
"""Largest file of a run folder, a checkpoint or a cache that is read as JSON."""

Needed = Mapping[str, type | tuple[type, ...]]
"""Keys that an object must have, with the types of their values; others may be there."""


def read_json(path: Path, needed: Needed | None = None, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no JSON object, is too large or too deep, not UTF-8, or lacks a key; says which.
    """
    return parse_json(read_regular(path, max_bytes), needed)


def parse_json(content: bytes | str, needed: Needed | None = None) -> dict[str, Any]:
    """The JSON object in a text.

    >>> parse_json(b'{"step": 3}', {"step": int})
    {'step': 3}

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value = json.loads(content.decode("utf-8") if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return checked(value, needed)


def checked(value: Any, needed: Needed | None = None) -> dict[str, Any]:
    """A value of a JSON file, which must be an object with these keys.

    Raises:
        ValueError: it is something else, or lacks a key; says which.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} instead of an object")
    for key, kind in (needed or {}).items():
        if key not in value:
            raise ValueError(f"{key!r} is missing")
        if not isinstance(value[key], kind) or (isinstance(value[key], bool) and kind is not bool):
            raise ValueError(f"{key!r} is {type(value[key]).__name__}")
    return value


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8, without a mark at its beginning.

    Raises:
        OSError: it cannot be read, or is something else.
        ValueError: it is too large, or not UTF-8.
    """
    return read_regular(path).decode("utf-8-sig", errors=errors)


def read_regular(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file: a pipe in its place would be waited for without end.

    Raises:
        OSError: it cannot be read, or is something else.
        ValueError: it is too large.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > max_bytes:
            raise ValueError(f"{status.st_size:,} bytes are too many")
        return file.read(max_bytes + 1)


def read_json_lines(path: Path, needed: Needed | None = None, *, stop: bool = False) -> list[dict[str, Any]]:
    """The JSON objects in a file of one a line, which a crash may have cut; none when it cannot be read at all.

    Args:
        path: of the file.
        needed: keys that an object must have; a line without them is left out.
        stop: end at the first line that is left out.
    """
    try:
        text = read_regular(path).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return []
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            found.append(parse_json(line, needed))
        except ValueError:
            if stop:
                break
    return found
