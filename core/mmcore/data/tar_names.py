"""Which files are tars, and which folders hold nothing but tars."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmcore.errors import DataError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
"""What a tar is called; all but the first cannot be read in place, which is told instead of finding no pictures."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def is_tar(path: Path) -> bool:
    """Whether a name is one of a tar, compressed or not."""
    return path.name.lower().endswith(ENDINGS)


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


def refuse_others(paths: Sequence[Path], what: str) -> None:
    """Refuse what a pattern means that is no tar.

    Raises:
        DataError: names the first.
    """
    for path in paths:
        if not is_tar(path):
            raise DataError(f"{what} takes pictures from tars, but this is none", where=path, do="end it with .tar")
