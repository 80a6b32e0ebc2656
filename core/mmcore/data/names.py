"""Class names as people write them: the same name twice, or once with a capital, is one class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def plain(name: str) -> str:
    """A name without blanks around it and without capitals: what two spellings of it have in common."""
    return " ".join(name.split()).casefold()


def merged(categories: Sequence[str]) -> tuple[tuple[str, ...], Int[np.ndarray, " categories"]]:
    """The distinct names, each in its first spelling, and the place of every category among them.

    >>> merged(["cup", "plate", "Cup "])[0]
    ('cup', 'plate')
    """
    places: dict[str, int] = {}
    names: list[str] = []
    for category in categories:
        if plain(category) not in places:
            places[plain(category)] = len(names)
            names.append(category)
    return tuple(names), np.array([places[plain(category)] for category in categories], np.int64)


def enumerated(names: Sequence[str]) -> str:
    """Names as one says them in a sentence.

    >>> enumerated(["a"]), enumerated(["a", "b"]), enumerated(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    *others, last = names
    if len(others) < 2:
        return " and ".join(names)
    return f"{', '.join(others)}, and {last}"
