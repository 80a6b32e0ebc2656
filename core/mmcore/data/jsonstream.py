"""Walk through a JSON file of any size, element by element, at the speed of the standard library's C scanner.

Annotation files are one object with a few arrays of millions of small elements. Here each element is decoded alone
and comes with its place in the file, so that a parser can keep places instead of values and read them again later.

The text is scanned as Latin-1, in which every byte is a character: places are then byte offsets, and JSON's own
characters mean the same as in UTF-8. Text inside the scanned values is therefore only right for ASCII; `decode` reads
an element again from its bytes as UTF-8.
"""

import json
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.errors import DataError, MissingDataError

WINDOW = 1 << 22
"""Characters that are looked at together; an element that does not fit doubles it."""

MAX_ELEMENT = 1 << 28
"""Longest single element, bytes."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""An error this close to the end of the window may only mean that the element goes on behind it."""


class Element(NamedTuple):
    """One value of the file: an element of a top-level array, or a top-level value that is not an array."""

    key: str
    """The top-level key; "" when the file itself is an array."""
    start: int
    """First byte."""
    end: int
    """One past the last byte."""
    value: Any
    """Decoded from Latin-1: numbers and ASCII text are right."""


def walk(path: Path) -> Iterator[Element]:
    """Every element of a JSON file, in file order.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not JSON; names the file and the byte.
    """
    with open_mapped(path) as content:
        yield from _Walker(path, content).walk()


def open_mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, mapped into memory; pages are shared and can be given back by the system at any time.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is empty or a folder.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise MissingDataError("annotation file is missing", where=path, do="check the data root") from None
    except (OSError, ValueError) as error:
        raise DataError(f"annotation file cannot be read: {error}", where=path) from None


def decode(content: mmap.mmap, start: int, end: int) -> Any:
    """The value between two places that `walk` gave, with its text as UTF-8.

    Raises:
        DataError: the text is not UTF-8.
    """
    try:
        return json.loads(content[start:end])
    except ValueError as error:  # UnicodeDecodeError is one
        raise DataError(f"element at byte {start} cannot be decoded: {error}") from None


class _Walker:
    """A window of text over the file, and a position in it."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._scan = json.JSONDecoder().scan_once  # pyright: ignore[reportAttributeAccessIssue]
        self._size = WINDOW
        self._base = self._at = 0
        self._load(3 if content[:3] == b"\xef\xbb\xbf" else 0)

    def walk(self) -> Iterator[Element]:
        opening = self._next()
        if opening == "[":
            yield from self._array("")
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("the file is not a JSON object or array")
        if self._peek():
            raise self._error("there is text behind the end of the JSON value")

    def _object(self) -> Iterator[Element]:
        if self._peek() == "}":
            self._next()
            return
        while True:
            if self._peek() != '"':
                raise self._error("expected a key in quotes")
            key = self._value().value
            if self._next() != ":":
                raise self._error("expected ':' behind a key")
            if self._peek() == "[":
                self._next()
                yield from self._array(key)
            else:
                yield self._value()._replace(key=key)
            if self._more("}"):
                return

    def _array(self, key: str) -> Iterator[Element]:
        if self._peek() == "]":
            self._next()
            return
        while True:
            yield self._value()._replace(key=key) if key else self._value()
            if self._more("]"):
                return

    def _more(self, closing: str) -> bool:
        """Step over a comma (False) or the closing bracket (True)."""
        character = self._next()
        if character not in (",", closing):
            raise self._error(f"expected ',' or '{closing}'")
        return character == closing

    def _value(self) -> Element:
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except StopIteration as stop:
                problem, place = "not a JSON value", int(stop.value)
            except json.JSONDecodeError as error:
                problem, place = error.msg, error.pos
                if error.msg.startswith("Unterminated string"):
                    place = len(self._text)
            except (ValueError, RecursionError) as error:
                raise self._error(f"a value cannot be decoded: {error}") from None
            else:
                # A number near the end of the window may go on behind it ("1.", "1.5e").
                open_ended = isinstance(value, int | float) and end > len(self._text) - _NEAR_END
                if not open_ended or self._complete:
                    element = Element("", self._base + self._at, self._base + end, value)
                    self._at = end
                    return element
                problem, place = "value too long", end
            if place < len(self._text) - _NEAR_END or self._complete:
                self._at = place
                raise self._error(problem)
            if self._at == 0:
                self._size *= 2
                if self._size > MAX_ELEMENT:
                    raise self._error(f"an element is longer than {MAX_ELEMENT} bytes, or does not end")
            self._load(self._base + self._at)

    def _peek(self) -> str:
        """The next character that is not white space, without stepping over it; "" at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._complete:
                return ""
            self._load(self._base + self._at)

    def _next(self) -> str:
        character = self._peek()
        self._at += 1
        return character

    def _load(self, start: int) -> None:
        self._text = self._content[start : start + self._size].decode("latin-1")
        self._base, self._at = start, 0
        self._complete = start + len(self._text) >= len(self._content)

    def _error(self, problem: str) -> DataError:
        place = self._base + self._at
        return DataError(
            f"not valid JSON: {problem}",
            where=f"{self._path}, byte {place} of {os.path.getsize(self._path)}",
            do="the file may be cut short or be something else; fetch it again",
        )
