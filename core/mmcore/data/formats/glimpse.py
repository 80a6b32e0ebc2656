"""A first look at an annotation file or folder: enough to tell which format it is, without reading all of it.

Recognition goes by content, never by the file's name: a JSON object or list, JSON Lines, XML, or a folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mmcore.base import tamed
from mmcore.data.formats.jsonstream import walk
from mmcore.errors import DataError, MissingDataError

HEAD = 1 << 20
"""Bytes that tell JSON from JSON Lines, XML and others."""

Kind = Literal["folder", "object", "list", "lines", "xml", "pickle", "other"]


@dataclass(frozen=True)
class Glimpse:
    """What a file or folder looks like.

    Attributes:
        path: the file or folder.
        kind: of content.
        parts: first element of each top-level array and every other top-level value of a JSON object, by key.
        first: first record of a list or of JSON Lines; None where there is none.
    """

    path: Path
    kind: Kind
    parts: Mapping[str, Any] = field(default_factory=dict)
    first: Any = None

    def has(self, part: str, *keys: str) -> bool:
        """Whether the first element of a JSON object's array is an object with these keys."""
        element = self.parts.get(part)
        return isinstance(element, dict) and all(key in element for key in keys)

    def records_have(self, *keys: str) -> bool:
        """Whether the first record of a list or of lines is an object with these keys."""
        return self.kind in ("list", "lines") and isinstance(self.first, dict) and all(k in self.first for k in keys)

    @cached_property
    def names(self) -> frozenset[str]:
        """File and folder names directly inside a folder."""
        return frozenset(path.name for path in self.path.iterdir()) if self.kind == "folder" else frozenset()


def look(path: Path) -> Glimpse:
    """A glimpse of a file or folder.

    Raises:
        MissingDataError: it is not there.
        DataError: it cannot be read.
    """
    if path.is_dir():
        return Glimpse(path, "folder")
    kind = kind_of(path)
    if kind == "lines":
        return Glimpse(path, kind, first=_first_line(path))
    if kind not in ("object", "list"):
        return Glimpse(path, kind)
    parts: dict[str, Any] = {}
    for element in walk(path):
        if element.key == "":
            return Glimpse(path, kind, first=element.value)
        parts.setdefault(element.key, element.value)
        if {"annotations", "categories"} <= parts.keys() and {"images", "videos"} & parts.keys():
            break  # all that tells COCO's children apart; the rest of a large file is not needed
    return Glimpse(path, kind, parts)


def kind_of(path: Path) -> Kind:
    """Whether a file holds one JSON value, one a line, XML, a pickle or something else; goes by its first bytes.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            ended = len(head) < HEAD
    except FileNotFoundError:
        raise MissingDataError("annotation file is missing", where=path, do="check the data root") from None
    except OSError as error:
        raise DataError(f"annotation file cannot be read: {error.strerror}", where=path) from None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return "list"
    if text.startswith(b"{"):
        return "lines" if _is_lines(text, ended) else "object"
    if text.startswith(b"<"):
        return "xml"
    return "pickle" if head[:1] == b"\x80" else "other"


def _is_lines(text: bytes, ended: bool) -> bool:
    """Whether text that begins with an object is one object a line: the first line is whole, and another follows.

    A single object on a single line is JSON Lines only when it looks like a record, that is, holds no list of objects
    under one of COCO's keys.
    """
    first, newline, rest = text.partition(b"\n")
    if not newline and not ended:
        return False  # one line longer than the head: a JSON object without line breaks
    try:
        value = tamed.loads(first)
    except ValueError:
        return False
    return bool(rest.strip()) or not {"images", "annotations", "questions"} & value.keys()


def _first_line(path: Path) -> Any:
    with open(path, "rb") as file:
        for line in file:
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text:
                try:
                    return tamed.loads(text)
                except ValueError:
                    return None
    return None
