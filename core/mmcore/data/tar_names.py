"""Which tar files a recipe or an own-data file means where it names a place of pictures: one, a folder, a pattern."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from mmcore.errors import DataError, MissingDataError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
"""What a tar is called; all but the first cannot be read in place, which is told instead of finding no pictures."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_tar(path: Path) -> bool:
    """Whether a name is one of a tar, compressed or not."""
    return path.name.lower().endswith(ENDINGS)


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: `*`, `?`, `[abc]`, or a range of numbers `{000..019}`."""
    return any(character in name for character in "*?[") or _RANGE.search(name) is not None


def tars_in(folder: Path) -> list[Path]:
    """The tars of a folder that holds no pictures and no folders beside them; else none."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir() or entry.name.lower().endswith(PICTURES):
                    return []
                if is_tar(Path(entry.name)):
                    found.append(Path(entry.path))
    except OSError:
        return []
    return sorted(found)


def split_pattern(pattern: str) -> tuple[str, str]:
    """The folder before the first part that stands for several, and the rest.

    >>> split_pattern("grit-20m/part?/{00..19}.tar")
    ('grit-20m', 'part?/{00..19}.tar')
    """
    parts = PurePosixPath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:fixed]), "/".join(parts[fixed:])


def matching(folder: Path, pattern: str, what: str) -> list[Path]:
    """The tars below a folder that a pattern means, by name.

    Args:
        folder: that exists.
        pattern: below it.
        what: names it in errors, such as "source 'coco'".

    Raises:
        MissingDataError: there are none, or one of a range is not there.
        DataError: it also means something that is no tar.
    """
    found: list[Path] = []
    for one in _expanded(pattern):
        here = sorted(path for path in folder.glob(one) if not path.is_dir())
        if not here:
            told = one if one == pattern else f"{one} (of {pattern})"
            raise MissingDataError(
                f"{what} needs the tars {told}, and none is there",
                where=folder,
                known=list(islice((path.name for path in sorted(folder.iterdir())), 8)),
                do="fetch them, or correct the pattern",
            )
        found += here
    for path in found:
        if not is_tar(path):
            raise DataError(f"{what} means tars with {pattern}, but this is none", where=path, do="end it with .tar")
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
