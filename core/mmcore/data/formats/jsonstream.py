"""Walk through a JSON file of any size, element by element, at the speed of the standard library's C scanner.

Annotation files are one object with a few arrays of millions of small elements. Here each element is decoded alone
and comes with its place in the file, so that a parser can keep places instead of values and read them again later.

The text is scanned as Latin-1, in which every byte is a character: places are then byte offsets, and JSON's own
characters mean the same as in UTF-8. Text inside the scanned values is therefore only right for ASCII;
`FileBytes.value` reads an element again from its bytes as UTF-8.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from mmcore.base import tamed
from mmcore.errors import DataError, MissingDataError

WINDOW = 1 << 22
"""Characters that are looked at together; an element that does not fit doubles it."""

MAX_ELEMENT = 1 << 28
"""Longest single element, bytes."""

_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,")
_NEAR_END = 16
"""An error this close to the end of the window may only mean that the element goes on behind it."""

_scan = json.JSONDecoder().scan_once  # pyright: ignore[reportAttributeAccessIssue]
"""(text, place) -> (value, end); raises StopIteration or JSONDecodeError."""


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


class FileBytes:
    """The bytes of a file by place. Read, not mapped: what was touched does not stay in this process's memory.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise MissingDataError("annotation file is missing", where=path, do="check the data root") from None
        except OSError as error:
            raise DataError(f"annotation file cannot be read: {error.strerror}", where=path) from None
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._handle)
            raise DataError("annotation file is not a regular file", where=path, do="name the file itself")
        self.size = status.st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, fewer where the file ends before."""
        try:
            return os.pread(self._handle, end - start, start)
        except OSError as error:
            raise DataError(f"annotation file cannot be read: {error.strerror}", where=self.path) from None

    def value(self, start: int, end: int) -> Any:
        """The JSON value between two places that `walk` gave, with its text as UTF-8.

        Raises:
            DataError: the text is not UTF-8.
        """
        try:
            text = self.read(start, end).decode()
            try:
                return _scan(text, 0)[0]
            except (ValueError, RecursionError):
                return tamed.loads(text)
        except (ValueError, StopIteration) as error:  # UnicodeDecodeError is a ValueError
            raise DataError(
                f"an element cannot be decoded: {error}",
                where=f"{self.path}, byte {start}",
                do="save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else "repair the file",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._handle)


def walk(path: Path) -> Iterator[Element]:
    """Every element of a JSON file, in file order.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not JSON; names the file and the byte.
    """
    with FileBytes(path) as content:
        yield from _Walker(content).walk()


class _Walker:
    """A window of text over the file, and a position in it."""

    def __init__(self, content: FileBytes) -> None:
        self._content = content
        self._size = WINDOW
        self._base = self._at = 0
        self._load(3 if content.read(0, 3) == b"\xef\xbb\xbf" else 0)

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
            key = self._value("").value
            if self._next() != ":":
                raise self._error("expected ':' behind a key")
            if self._peek() == "[":
                self._next()
                yield from self._array(key)
            else:
                yield self._value(key)
            if self._more("}"):
                return

    def _array(self, key: str) -> Iterator[Element]:
        if self._peek() == "]":
            self._next()
            return
        while True:
            yield self._value(key)
            comma = _COMMA.match(self._text, self._at)
            if comma:  # nearly always; the rest of this method is for the edges of windows and arrays
                self._at = comma.end()
            elif self._more("]"):
                return

    def _more(self, closing: str) -> bool:
        """Step over a comma (False) or the closing bracket (True)."""
        character = self._next()
        if character not in (",", closing):
            raise self._error(f"expected ',' or '{closing}'")
        return character == closing

    def _value(self, key: str) -> Element:
        self._peek()
        while True:
            try:
                value, end = _scan(self._text, self._at)
            except StopIteration as stop:
                problem, place = "not a JSON value", int(stop.value)
            except json.JSONDecodeError as error:
                problem, place = error.msg, error.pos
                if error.msg.startswith("Unterminated string"):
                    place = len(self._text)
            except (ValueError, RecursionError) as error:
                end = tamed.end_of(self._text, self._at) if self._text[self._at] in "[{" else None
                if end is not None:
                    element = Element(key, self._base + self._at, self._base + end, self._tamed(end))
                    self._at = end
                    return element
                if self._complete or self._text[self._at] not in "[{":
                    raise self._error(f"a value cannot be decoded: {error}") from None
                problem, place = "value too long", len(self._text)
            else:
                # A number near the end of the window may go on behind it ("1.", "1.5e").
                open_ended = isinstance(value, int | float) and end > len(self._text) - _NEAR_END
                if not open_ended or self._complete:
                    element = Element(key, self._base + self._at, self._base + end, value)
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

    def _tamed(self, end: int) -> Any:
        """A value that the scanner gave up on, without the part that it cannot take."""
        try:
            return tamed.loads(self._text[self._at : end])
        except ValueError as error:
            raise self._error(f"a value cannot be decoded: {error}") from None

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
        self._text = self._content.read(start, start + self._size).decode("latin-1")
        self._base, self._at = start, 0
        self._complete = start + len(self._text) >= self._content.size or not self._text

    def _error(self, problem: str) -> DataError:
        place = self._base + self._at
        return DataError(
            f"not valid JSON: {problem}",
            where=f"{self._content.path}, byte {place} of {self._content.size}",
            do="the file may be cut short or be something else; fetch it again",
        )
