"""Category names, verbatim as the published GLEE feeds them to its text encoder, and the cleaning of expressions.

No prompt template: `aerosol_can` keeps its underscore, `Table Tennis ` its trailing blank, OVIS its "Vehical". The
lists are facts stored as JSON beside the code.
"""

import json
import re
from functools import cache
from importlib.resources import files

from mmcore.errors import RecipeError, suggest

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
"""Words that count objects from a side of the whole image, so a crop would change what they mean."""

_DROPPED = re.compile(r"[.,'!?\"()*#:;]")
_BLANKED = str.maketrans("-/", "  ")
_SIDES = re.compile("left|right")


def names(task: str) -> tuple[str, ...]:
    """The names of a task or data set, in label order.

    Raises:
        RecipeError: no list has this name.
    """
    lists, same_as = _tables()
    key = same_as.get(task, task)
    if key not in lists:
        known = known_lists()
        raise RecipeError(f"no vocabulary named {task!r}", known=known, do=suggest(task, known, "choose one of these"))
    return lists[key]


def known_lists() -> list[str]:
    """Every name that `names` accepts."""
    lists, same_as = _tables()
    return sorted([*lists, *same_as])


@cache
def phrases() -> tuple[str, ...]:
    """Object phrases from which random negatives of free-text sources are drawn, sorted, without repeats.

    The published code draws from 70,163 Visual Genome phrases, which are not ours to distribute; any list of object
    names serves. These are all names of the stored vocabularies, in plain words.
    """
    lists, _ = _tables()
    plain = (name.strip().replace("_", " ").lower() for listed in lists.values() for name in listed)
    return tuple(sorted({name for name in plain if not name.endswith(", object")}))


def clean_expression(expression: str) -> str:
    """Lower case without . , ' ! ? " ( ) * # : ; and with blanks for - and /.

    >>> clean_expression("The man (in red) - left/right")
    'the man in red   left right'
    """
    return _DROPPED.sub("", expression.lower()).translate(_BLANKED)


def swap_sides(expression: str) -> str:
    """Exchange "left" and "right" wherever the letters occur, as a mirrored image asks for.

    >>> swap_sides("left of the upright lamp")
    'right of the upleft lamp'
    """
    return _SIDES.sub(lambda match: "right" if match.group() == "left" else "left", expression)


def has_ordinal(expression: str) -> bool:
    """Whether the letters of first ... tenth occur, also inside a word, as the published code looks for them.

    >>> has_ordinal("Second cup"), has_ordinal("in a split second"), has_ordinal("cup")
    (True, True, False)
    """
    lowered = expression.lower()
    return any(word in lowered for word in ORDINALS)


@cache
def _tables() -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    stored = json.loads(files("mmcore_glee").joinpath("data", "vocabularies.json").read_text("utf-8"))
    return {key: tuple(value) for key, value in stored["lists"].items()}, stored["same_as"]
