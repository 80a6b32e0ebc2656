"""Where a record's picture is: a file below a folder, or a value of the LMDB that stands in the folder's place."""

from functools import lru_cache
from pathlib import Path

from mmcore.data.images import Held, safe_join
from mmcore.data.lmdb_store import Store


def picture_at(folder: Path, name: str) -> Path | Held:
    """What `mmcore.data.images.read_image` reads for a record that names its picture.

    Args:
        folder: of pictures; or an LMDB (a folder with `data.mdb`, or that file) whose keys are the names.
        name: as the record has it.

    Raises:
        UnsafeDataError: the name leaves the folder.
        MissingDataError: the LMDB has no such key.
        PluginError: it is an LMDB, and the package is not installed.
    """
    if not _is_store(folder):
        return safe_join(folder, name)
    return Held(Store(folder).get(name), f"{folder}, key {name}")


@lru_cache(64)
def _is_store(folder: Path) -> bool:
    return folder.is_file() or (folder / "data.mdb").is_file()
