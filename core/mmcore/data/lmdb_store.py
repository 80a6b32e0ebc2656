"""Values by key in an LMDB, as some data sets keep their annotations or images: read-only, opened once per process.

The package `lmdb` is an extra: `pip install 'mmcore-trainer[lmdb]'`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmcore.errors import DataError, MissingDataError, PluginError

INSTALL = "pip install 'mmcore-trainer[lmdb]'"

_OPEN: dict[tuple[int, str], Any] = {}
"""Process and real path -> environment: LMDB opens a store once per process, and not across a fork."""


class Store:
    """One LMDB. Picklable; every process opens it for itself when it first reads.

    Args:
        folder: that holds `data.mdb`, or the file itself.

    Raises:
        MissingDataError: it is not there.
        PluginError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        inside = self.folder / "data.mdb" if self.folder.is_dir() else self.folder
        if not inside.is_file():
            raise MissingDataError(
                "there is no LMDB", where=self.folder, known="a folder with data.mdb", do="check the data root"
            )
        self.file = inside
        _package()

    def get(self, key: str) -> bytes:
        """The value of a key.

        Raises:
            MissingDataError: the store has no such key.
            DataError: the store is damaged.
        """
        lmdb = _package()
        try:
            with self._opened().begin(buffers=False) as transaction:
                value = transaction.get(key.encode())
        except (lmdb.Error, UnicodeEncodeError) as error:
            raise self._damaged(error) from None
        if value is None:
            raise MissingDataError(
                f"the LMDB has no key {key!r}", where=self.folder, do="list its keys anew, or fetch it again"
            )
        return bytes(value)

    def keys(self) -> Iterator[str]:
        """Every key, in the store's order.

        Raises:
            DataError: the store is damaged, or a key is no text.
        """
        lmdb = _package()
        try:
            with self._opened().begin() as transaction:
                for key in transaction.cursor().iternext(keys=True, values=False):
                    yield bytes(key).decode()
        except (lmdb.Error, UnicodeDecodeError) as error:
            raise self._damaged(error) from None

    def __len__(self) -> int:
        """How many keys it has."""
        lmdb = _package()
        try:
            return int(self._opened().stat()["entries"])
        except lmdb.Error as error:
            raise self._damaged(error) from None

    def _opened(self) -> Any:
        key = os.getpid(), os.path.realpath(self.file)
        if key not in _OPEN:
            _OPEN[key] = self._open()
        return _OPEN[key]

    def _open(self) -> Any:
        lmdb = _package()
        try:
            opened = lmdb.open(
                str(self.folder),
                subdir=self.folder.is_dir(),
                readonly=True,
                create=False,
                lock=False,
                readahead=False,
                meminit=False,
            )
        except lmdb.Error as error:
            raise self._damaged(error) from None
        # The file is mapped: pages that it lacks would end the process with SIGBUS, not with an error.
        needed = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if (size := self.file.stat().st_size) < needed:
            opened.close()
            raise self._damaged(f"it has {size:,} of {needed:,} bytes")
        return opened

    def _damaged(self, error: object) -> DataError:
        return DataError(f"the LMDB cannot be read: {error}", where=self.folder, do="fetch it again, or rebuild it")


def _package() -> Any:
    try:
        import lmdb  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise PluginError("reading an LMDB needs the package lmdb", where="data source", do=INSTALL) from None
    return lmdb
