"""Python's collector of cycles while a command starts.

Importing torch and transformers and building a model makes a million objects that stay. The collector counts what is
new and, by its usual thresholds, walks through what is there hundreds of times without finding a thing: about a fifth
of the seconds that `mmcore plan` takes. While a command starts it looks seldom; work has the usual thresholds again,
so that cycles which hold tensors do not wait.
"""

import gc

_USUAL = gc.get_threshold()
_SELDOM = 100_000
"""New objects between two looks, 700 by default."""


def start() -> None:
    """Look seldom: what is made now stays."""
    gc.set_threshold(_SELDOM, *_USUAL[1:])


def work() -> None:
    """The thresholds that this process began with."""
    gc.set_threshold(*_USUAL)
