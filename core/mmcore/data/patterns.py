"""Names of a recipe that stand for several files: `*`, `**`, `?`, `[abc]`, and ranges of numbers `{000..019}`."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from mmcore.data.images import locate, unsafe_reason
from mmcore.errors import MissingDataError, UnsafeDataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_pattern(name: str) -> bool:
    """Whether a name stands for several."""
    return any(character in name for character in "*?[") or _RANGE.search(name) is not None


def split_pattern(pattern: str) -> tuple[str, str]:
    """The folder before the first part that stands for several, and the rest.

    >>> split_pattern("grit-20m/part?/{00..19}.tar")
    ('grit-20m', 'part?/{00..19}.tar')
    """
    parts = PurePosixPath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:fixed]), "/".join(parts[fixed:])


def locate_all(root: Path, relative: str, what: str) -> tuple[Path, list[Path]]:
    """The folder before a pattern of a recipe, and the files that the pattern means, by name.

    Args:
        root: data root, or the root of an own-data file.
        relative: a pattern below it.
        what: names it in errors, such as "source 'coco'".

    Raises:
        UnsafeDataError: it is absolute or climbs out of the root.
        MissingDataError: there are none, or one of a range is not there.
    """
    if reason := unsafe_reason(relative):
        raise UnsafeDataError(
            f"{what} needs {relative!r}, which {reason}", where=f"data root {root}", do="name files below the root"
        )
    folder, pattern = split_pattern(relative)
    base = locate(root, folder, what)
    return base, matching(base, pattern, what)


def matching(folder: Path, pattern: str, what: str) -> list[Path]:
    """The files below a folder that a pattern means, by name.

    Args:
        folder: that exists.
        pattern: below it.
        what: names it in errors.

    Raises:
        MissingDataError: there are none, or one of a range is not there.
    """
    found: list[Path] = []
    for one in _expanded(pattern):
        here = sorted(path for path in folder.glob(one) if not path.is_dir())
        if not here:
            told = one if one == pattern else f"{one} (of {pattern})"
            raise MissingDataError(
                f"{what} needs {told}, and no such file is there",
                where=folder,
                known=list(islice((path.name for path in sorted(folder.iterdir())), 8)),
                do="fetch it, or correct the pattern",
            )
        found += here
    return sorted(dict.fromkeys(found))


def _expanded(pattern: str) -> Iterator[str]:
    """A pattern without ranges, one for each number."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")
