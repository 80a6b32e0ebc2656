"""JSON that the standard library gives up on, with only what it cannot take replaced.

A value nested a hundred thousand levels deep, or a number of five thousand digits, is somebody's broken or hostile
record. The records around it are fine, and so is the rest of that one: the deep part becomes null and the number
infinity, which whoever needs the field refuses as any other unusable value.
"""

import json
import re
from typing import Any

DEPTH = 100
"""Levels of nesting that are kept."""
_DIGITS = 308
"""Digits of a whole number that a floating point number can have."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|"|[\[\]{}]', re.DOTALL)
_LONG_NUMBER = re.compile(rf"(?<![\w.+-])(-?)\d{{{_DIGITS + 1},}}(?![\w.])")


def loads(text: str | bytes) -> Any:
    """The value of a JSON text, tamed where it has to be.

    >>> deep = "[" * 100_000 + "]" * 100_000
    >>> loads('{"id": 3, "box": [1, ' + "9" * 5000 + ']}')
    {'id': 3, 'box': [1, inf]}
    >>> loads('{"id": 4, "note": "[[", "more": ' + deep + "}")["id"]
    4

    Raises:
        ValueError: it is no JSON, or no UTF-8.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        return json.loads(tame(text))


def tame(text: str) -> str:
    """The text with null for what is nested deeper than `DEPTH`, and infinity for whole numbers no float can be."""
    kept, depth, at = [], 0, 0
    for token in _TOKEN.finditer(text):
        if depth <= DEPTH:
            kept.append(_LONG_NUMBER.sub(r"\g<1>1e999", text[at : token.start()]))
        at, sign = token.end(), token.group()
        depth += (sign in "[{") - (sign in "]}") if len(sign) == 1 else 0
        if depth > DEPTH or (depth == DEPTH and sign in ("]", "}")):
            kept += ["null"] if depth == DEPTH + 1 and sign in ("[", "{") else []
        else:
            kept.append(sign)
    return "".join([*kept, _LONG_NUMBER.sub(r"\g<1>1e999", text[at:])])


def end_of(text: str, at: int) -> int | None:
    """Where the array or object that begins at a place of a text ends, found without nesting; None past its end.

    >>> end_of('x [1, "]", {}] y', 2)
    14
    """
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token.group()
        if sign == '"':
            return None  # a text that goes on behind the end
        depth += (sign in "[{") - (sign in "]}") if len(sign) == 1 else 0
        if depth == 0:
            return token.end()
    return None
