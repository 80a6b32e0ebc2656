"""Lists of file names or keys, as records of a source that has no annotation file to index.

A folder of 118 000 label maps or a list of millions of keys is one array of bytes: small to hold, shared by workers,
and quickly sent to them.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmcore.errors import DataError, MissingDataError


class Names:
    """Names by position.

    Args:
        names: in the order of the records.
        origin: where they come from, for errors.

    Raises:
        DataError: there are none.
    """

    def __init__(self, names: Iterable[str], origin: Path) -> None:
        self._names = np.array([name.encode() for name in names])
        self.origin = origin
        if not len(self._names):
            raise DataError("there is nothing to read here", where=origin, do="check the data root")
        self.fingerprint = hashlib.blake2b(self._names.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, position: int) -> str:
        return bytes(self._names[position]).decode()


def files_in(folder: Path, ending: str) -> Names:
    """The names of a folder's files with an ending, sorted.

    Raises:
        MissingDataError: the folder is not there.
        DataError: it holds none.
    """
    if not folder.is_dir():
        raise MissingDataError("the folder is missing", where=folder, do="check the data root")
    return Names(sorted(path.name for path in folder.iterdir() if path.suffix == ending), folder)


def lines_of(path: Path) -> Names:
    """The lines of a text file that are not blank.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no text.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return Names((line.strip() for line in file if line.strip()), path)
    except FileNotFoundError:
        raise MissingDataError("the list of keys is missing", where=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error}", where=path) from None
