"""Where a file lies that somebody names: below the data root, or beside the file that names it."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmcore.errors import MissingDataError


def find(name: str, places: Sequence[Path], where: str, do: str) -> Path:
    """A file or folder that is named, in the first place that has it; an absolute name is taken as it is.

    Args:
        name: as it was given.
        places: folders, in order.
        where: who names it, for errors.
        do: what helps where it is in none of them.

    Raises:
        MissingDataError: it is in none of the places.
    """
    tried = list(dict.fromkeys(places))
    for place in tried:
        if (place / name).exists():
            return Path(os.path.normpath(place / name))
    raise MissingDataError(f"{name} is not there", where=where, known=[str(place) for place in tried], do=do)


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder that holds it, with slashes; empty for the folder itself."""
    inside = path.relative_to(folder).as_posix()
    return "" if inside == "." else inside


def common_root(root: Path, *paths: Path) -> Path:
    """The root where it holds all of the paths, else the lowest folder that does.

    Args:
        root: of the data.
        paths: of files or folders, files by the folder that they are in.
    """
    return root if all(path.is_relative_to(root) for path in paths) else Path(os.path.commonpath(paths))
