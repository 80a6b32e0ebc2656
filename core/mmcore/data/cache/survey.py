"""What a cache has and what it lacks: compared with the images wanted, before anything is computed or written."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mmcore.data.cache.features import CACHE_NAME, CacheJob, Item, digest_of, unfit
from mmcore.data.cache.shards import Present, rows_of
from mmcore.data.pictures import Inside
from mmcore.errors import DataError

SPARE_BYTES = 64 * 2**20
"""Left free on the disk, for the index and for others."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is there and what is missing."""

    todo: list[Item]
    """Images without a row, or whose content is no longer that of their row."""
    kept: int
    """Images whose rows stay."""
    changed: int
    """Those of `todo` that have a row for another content."""
    row_bytes: int
    free_bytes: int
    """Of the disk that holds the cache."""

    @property
    def total(self) -> int:
        return len(self.todo) + self.kept

    @property
    def needed_bytes(self) -> int:
        """That will be written."""
        return len(self.todo) * self.row_bytes


def survey(job: CacheJob, folder: Path) -> Survey:
    """Compare what is wanted with what is there; an image whose size and time are unchanged is not read.

    Raises:
        DataError: the folder holds the cache of another identity, or there are no images at all.
    """
    present = {}
    if (folder / CACHE_NAME).exists():
        refuse_unfit(job, folder)
        present = rows_of(folder)
    items = {item.key: item for item in job.items()}
    if not items:
        raise DataError("the data sources name no images", where=", ".join(job.covers) or None)
    todo, changed = [], 0
    for key, item in items.items():
        row = present.get(key)
        if row is None or not _same(item, row):
            todo.append(item)
            changed += row is not None
    return Survey(todo, len(items) - len(todo), changed, job.row_bytes, _free(folder))


def refuse_unfit(job: CacheJob, folder: Path) -> None:
    """Raises DataError if the folder's cache was made by something else; names the entries."""
    if different := unfit(folder, job.identity):
        raise DataError(
            "this cache was made by something else: " + "; ".join(different[:3]),
            where=folder,
            do="name another folder with --out, or delete this one",
        )


def refuse_full(found: Survey, folder: Path) -> None:
    """Raises DataError if the disk has no room for what is missing."""
    if found.todo and found.needed_bytes + SPARE_BYTES > found.free_bytes:
        raise DataError(
            f"the cache needs {size_text(found.needed_bytes)} more ({len(found.todo):,} images, "
            f"{size_text(found.row_bytes)} each); the disk has {size_text(found.free_bytes)} free",
            where=folder,
            do="choose a larger disk with --out, or train with live teachers",
        )


def size_text(count: float) -> str:
    """Bytes for people.

    >>> size_text(2_950_000), size_text(512)
    ('2.95 MB', '512 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _same(item: Item, row: Present) -> bool:
    """Whether an image is the one of its row; only read when its size or time differ."""
    try:
        known = not isinstance(item.path, Inside) and stat_of(item.path) == row.stat
        return known or digest_of(item.path).hex() == row.digest
    except DataError:
        return False


def stat_of(path: Path | Inside) -> list[int]:
    """Size in bytes and time of change in nanoseconds of a file; -1 and -1 where there is none."""
    if isinstance(path, Inside):  # has no time of its own: its content tells
        return [-1, -1]
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _free(folder: Path) -> int:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
