"""Everything a user can cause, as one tree.

    MmcoreError            exit code 1
    ├── UsageError         exit code 2: the command line, a recipe or a plugin name is wrong
    │   ├── RecipeError    a stage, a key or a value that does not exist or does not fit
    │   └── PluginError    a plugin that is missing, broken, incompatible or misspelled
    ├── DataError          a file, a record or a field of the data is wrong
    │   ├── MissingDataError   a folder or a file that should be there is not
    │   └── UnsafeDataError    a path that leaves the data root, a decompression bomb, a hostile pickle
    ├── CacheError         an index or a cache of mmcore's own that was damaged; never a sample's fault
    ├── WeightsError       a checkpoint that does not fit the model
    ├── CheckpointError    a run folder that is locked, damaged, full or not a run
    ├── NonFiniteError     the loss or the gradient stopped being a number
    ├── LossSpikeError     the loss left the spread of the last steps, and the recipe stops there
    ├── OutOfMemoryError   exit code 3: the device or the host has no memory left
    ├── FileSystemError    the system refuses a file: no space, no right, a name too long
    ├── ShapeError         tensors that do not fit together
    └── LaunchError        processes that could not be started or lost one another
    Stopped                a signal asked the run to stop and it was saved: exit code 128 + signal

Each says what happened, where, what is known and what to do::

    RecipeError: glee has no stage 4
      where: --stage 4, plugin glee (mmcore-glee 0.1.0)
      known: 1 pretrain, 2 joint, 3 scaleup
      do:    choose one of these, or see `mmcore plugins`

What only mmcore itself can get wrong is an `assert`, not one of these.
"""

import difflib
from collections.abc import Iterable, Sequence


class MmcoreError(Exception):
    """A mistake that its message explains; shown without a traceback unless --debug is given.

    Args:
        what: what happened, one line without a full stop.
        where: the file, record, key, option or plugin it happened in.
        known: what would have been accepted.
        do: what to do next.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: object = None, known: Iterable[object] | str | None = None, do: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.known = known if known is None or isinstance(known, str) else ", ".join(str(k) for k in known)
        self.do = do

    def __str__(self) -> str:
        lines = [printable(self.what)]
        for label, text in (("where:", self.where), ("known:", self.known), ("do:", self.do)):
            if text:
                lines.append(f"  {label:<6} {printable(text)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Data workers send exceptions between processes; the default would lose the keyword arguments.
        return _rebuild, (type(self), self.what, self.where, self.known, self.do)


def _rebuild(kind: type[MmcoreError], what: str, where: str | None, known: str | None, do: str | None) -> MmcoreError:
    return kind(what, where=where, known=known, do=do)


class UsageError(MmcoreError):
    """The command line or a configuration asks for something that does not exist."""

    exit_code = 2


class RecipeError(UsageError):
    """A stage, a recipe key or a recipe value that does not exist or does not fit."""


class PluginError(UsageError):
    """A plugin is missing, broken, incompatible, or implements a hook that does not exist."""


class DataError(MmcoreError):
    """A file, a record or a field of the data is wrong."""


class MissingDataError(DataError):
    """A folder or file the run needs is not there."""


class UnsafeDataError(DataError):
    """Data that tries to leave its root, to exhaust memory or to run code."""


class CacheError(MmcoreError):
    """An index or a cache that mmcore wrote was damaged afterwards; no record of the data is to blame."""


class WeightsError(MmcoreError):
    """A checkpoint does not fit the model, or is not a checkpoint."""


class CheckpointError(MmcoreError):
    """A run folder is in use, damaged, full, or not a run folder."""


class NonFiniteError(MmcoreError):
    """The loss or a gradient is not finite; nothing was updated."""


class LossSpikeError(MmcoreError):
    """The loss is far outside what it was in the last steps; nothing was updated."""


class OutOfMemoryError(MmcoreError):
    """The device or the host has no memory left for a step."""

    exit_code = 3


class FileSystemError(MmcoreError):
    """The system refuses a file: the disk is full or read-only, permissions lack, the name is too long."""


class ShapeError(MmcoreError):
    """Two tensors do not fit together."""


class LaunchError(MmcoreError):
    """Processes could not be started, or one of them was lost."""


class Stopped(MmcoreError):  # noqa: N818 not a mistake, an end
    """A signal asked the run to stop; the state was saved first.

    Args:
        signal_number: the signal; the process exits with 128 + this (130 for SIGINT, 143 for SIGTERM).
    """

    def __init__(self, signal_number: int, what: str, *, do: str | None = None) -> None:
        super().__init__(what, do=do)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return 128 + self.signal_number


def printable(text: str) -> str:
    """Text that may hold names out of somebody's file, with what would steer a terminal as escapes.

    >>> printable("photo\\x1b]0;title\\x07.jpg")
    'photo\\\\x1b]0;title\\\\x07.jpg'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name among `known` that is most like `name`, or None when nothing is close.

    Args:
        cutoff: how like it must be, 1 for equal.

    >>> nearest("refcco", ["coco", "refcoco"])
    'refcoco'
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The `do:` line for an unknown name: the nearest known one, or `otherwise`."""
    close = nearest(name, known)
    return f"did you mean {close!r}?" if close else otherwise


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list that may be long, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
