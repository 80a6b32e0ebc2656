"""Values that are computed once per image and then read by training: what frozen networks say, on disk.

A cache is a folder:

    cache.json               what made the values, their shapes, which data it is complete for, and size and sha256 of
                             the index and the shards; written last
    index.npy                for every image: where its row lies, and a hash of the image's content
    shard-00000.safetensors  one tensor per field, a row per image
    shard-00000.json         size and sha256 of that file, and the images of its rows

Shards are written under another name, forced to disk, renamed and never changed; a shard counts when its JSON file is
there. What is missing is appended (`mmcore.data.cache.fill`), so a killed writer loses one shard at most, a grown data
set costs what grew, and an image that changed gets a new row. Nothing is found by name alone: a row belongs to the
content of its image, and a folder to the identity of what made it.

A cache is verified when it is opened: what was verified before and was not touched since (size, times, inode, kept in
`verified.json`) is not read again. Damage is the cache's fault and stops the run; it is never a bad sample.

Rows are read with `pread` into fresh memory. A map would count as the worker's memory, and a file cut short under a map
kills the process instead of raising an error.
"""

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmcore.base.files import hash_file
from mmcore.base.jsonfile import read_json
from mmcore.data.pictures import Inside
from mmcore.errors import CacheError, DataError, MissingDataError

if TYPE_CHECKING:
    from torch import Tensor, device

VERSION = 1
CACHE_NAME, INDEX_NAME, VERIFIED_NAME = "cache.json", "index.npy", "verified.json"
DTYPES = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
OPEN_SHARDS = 64
"""Shards that a reader keeps open."""
DIGEST_BYTES = 16


class Field(NamedTuple):
    """One value of every row."""

    shape: tuple[int, ...]
    dtype: str
    """`fp16` or `fp32`."""

    @property
    def num_bytes(self) -> int:
        """Of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


class Item(NamedTuple):
    """One image."""

    key: str
    """Its path below the data root; the data root itself may move."""
    path: Path | Inside


Make = Callable[[Mapping[str, "Tensor"]], Mapping[str, "Tensor"]]
"""Stacked inputs -> field -> (images, *shape), on any device."""


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """What a family wants to have computed once; its module offers `data_cache(stage, context, dtype) -> CacheJob`."""

    folder: Path
    """Where the cache lies unless --out says otherwise."""
    fields: Mapping[str, Field]
    identity: Mapping[str, Any]
    """Everything that decides the values, JSON: networks, hashes of their files, preparation, precision."""
    covers: Mapping[str, str]
    """Data source -> fingerprint of the records that name the items."""
    items: Callable[[], Iterable[Item]]
    """Every image; one that several records share may come several times."""
    read: "Callable[[Path | Inside], Mapping[str, Tensor]]"
    """An image's inputs; called in worker processes.

    Raises:
        DataError: the image cannot be used.
    """
    make: "Callable[[device], Make]"
    """Load the networks; called once, when there is something to compute."""

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return sum(field.num_bytes for field in self.fields.values())


class FeatureCache:
    """A cache, to read from. Picklable; every process opens the files for itself when it first reads.

    Args:
        folder: of the cache.

    Raises:
        MissingDataError: there is no finished cache.
        CacheError: it is damaged or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        told = describe(folder)
        if not (folder / INDEX_NAME).is_file():
            raise MissingDataError("the cache was never finished", where=folder, do=REPAIR)
        if fault := first_damage(folder, told):
            raise CacheError(f"the cache is damaged: {fault}", where=folder, do=REPAIR)
        self.identity: dict[str, Any] = told["identity"]
        self.covers: dict[str, str] = told["covers"]
        self.num_rows: int = told["rows"]
        self.fields = {name: Field(tuple(shape), dtype) for name, (shape, dtype) in told["fields"].items()}
        self._index: np.ndarray | None = None
        self._open: OrderedDict[int, tuple[int, dict[str, int]]] = OrderedDict()

    def __len__(self) -> int:
        return self.num_rows

    def read(self, key: str, path: Path | Inside | None = None) -> dict[str, np.ndarray]:
        """The values of one image.

        Args:
            key: of the image.
            path: its file, or where it is inside another; given, it must have the content that the values are of.

        Raises:
            MissingDataError: the cache has no such image.
            DataError: the image has changed.
            CacheError: the cache was damaged after it was opened.
        """
        row = self._find(key)
        if path is not None and digest_of(path) != row.digest:
            raise DataError("the image has changed since its targets were cached", where=str(path), do=REPAIR)
        handle, begins = self._shard(row.shard)
        return {name: self._field(handle, begins[name], field, row) for name, field in self.fields.items()}

    def _find(self, key: str) -> "Row":
        if self._index is None:
            self._index = open_index(self.folder)
        wanted = hash_of(key)
        at = int(np.searchsorted(self._index[0], wanted))
        if at >= self._index.shape[1] or self._index[0, at] != wanted:
            raise MissingDataError(f"the cache has nothing for image {key!r}", where=self.folder, do=REPAIR)
        place = int(self._index[1, at])
        return Row(place >> 32, place & 0xFFFFFFFF, self._index[2:, at].tobytes())

    def _field(self, handle: int, begin: int, field: Field, row: "Row") -> np.ndarray:
        content = np.empty(field.shape, DTYPES[field.dtype])
        room = content.reshape(-1).view(np.uint8).data
        got = os.preadv(handle, [room], begin + row.number * field.num_bytes)
        if got != field.num_bytes:
            raise CacheError("a shard is cut short", where=shard_path(self.folder, row.shard), do=REPAIR)
        return content

    def _shard(self, number: int) -> tuple[int, dict[str, int]]:
        """An open shard, and where each field begins in it."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = shard_path(self.folder, number)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"a shard cannot be opened: {error.strerror}", where=path, do=REPAIR) from None
        try:
            length = int.from_bytes(os.pread(handle, 8, 0), "little")
            header = json.loads(os.pread(handle, min(length, 1 << 24), 8))
            begins = {name: 8 + length + header[name]["data_offsets"][0] for name in self.fields}
        except (ValueError, KeyError, TypeError) as error:
            os.close(handle)
            raise CacheError(f"a shard is damaged: {error}", where=path, do=REPAIR) from None
        if len(self._open) >= OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1][0])
        self._open[number] = handle, begins
        return handle, begins

    def close(self) -> None:
        """Give back the file handles; reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1][0])
        self._index = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None, "_open": OrderedDict()}


REPAIR = "run `mmcore data cache` again: it makes what is missing and keeps the rest"


class Row(NamedTuple):
    """Where an image's values lie."""

    shard: int
    number: int
    digest: bytes


def describe(folder: Path) -> dict[str, Any]:
    """The content of `cache.json`.

    Raises:
        MissingDataError: there is none.
        DataError: it is damaged or of another version.
    """
    path = folder / CACHE_NAME
    try:
        told = read_json(path)
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}, not {VERSION}")
        missing = {"identity", "covers", "rows", "fields", "shards"} - told.keys()
        if missing:
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        if told.get("self", own_hash(told)) != own_hash(told):
            raise ValueError("it was changed after it was written")
    except FileNotFoundError:
        raise MissingDataError("there is no cache here", where=folder, do="make it with `mmcore data cache`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"not the description of a cache: {error}", where=path, do=f"delete this file and {REPAIR}"
        ) from None
    return told


def own_hash(told: Mapping[str, Any]) -> str:
    """Of a description without its entry for this."""
    rest = {name: value for name, value in told.items() if name != "self"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def first_damage(folder: Path, told: Mapping[str, Any], *, all_again: bool = False) -> str | None:
    """What is wrong with the files that a description names, as a sentence, or None.

    Args:
        folder: of the cache.
        told: its description.
        all_again: read also what was verified before and not touched since.
    """
    entries = [*told["shards"], *([told["index"]] if "index" in told else [])]
    before = _verified(folder)
    known = {} if all_again else before
    fresh = dict(before)
    for entry in entries:
        name = Path(entry["file"]).name
        try:
            status = os.stat(folder / name)
            marks = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            if status.st_size != entry["size"]:
                return f"{name} has {status.st_size:,} bytes instead of {entry['size']:,}"
            if known.get(name) != marks and hash_file(folder / name)[1] != entry["sha256"]:
                return f"{name} was changed after it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        fresh[name] = marks
    if fresh != before:
        with contextlib.suppress(OSError):  # a cache that cannot be written is verified each time
            temporary = folder / f".{VERIFIED_NAME}.{os.getpid()}"
            temporary.write_text(json.dumps(fresh))
            temporary.replace(folder / VERIFIED_NAME)
    return None


def _verified(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return read_json(folder / VERIFIED_NAME)
    return {}


def unfit(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """Entries in which a cache's identity differs from this one; empty when it fits.

    Raises:
        DataError: as `describe`.
    """
    mine, theirs = flat(identity), flat(describe(folder)["identity"])
    return [
        f"{name}: {theirs.get(name, 'nothing')} instead of {mine.get(name, 'nothing')}"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def fingerprint(identity: Mapping[str, Any]) -> str:
    """A name for an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under dotted names, as JSON gives them back."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return result


def hash_of(key: str) -> np.uint64:
    """64 bits for a key; a cache whose keys collide is refused when it is written."""
    return np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8).digest(), "<u8")[0]


def digest_of(path: Path | Inside) -> bytes:
    """Hash of a picture file's content.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read.
    """
    try:
        if isinstance(path, Inside):
            return hashlib.blake2b(path.held().content, digest_size=DIGEST_BYTES).digest()
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=DIGEST_BYTES).digest()
    except FileNotFoundError:
        raise MissingDataError("image is missing", where=path, do="check the data root and the file name") from None
    except OSError as error:
        raise DataError(f"image cannot be read: {error.strerror}", where=path) from None


def open_index(folder: Path) -> np.ndarray:
    """(4, images) uint64, mapped: sorted key hashes, shard and row, the image's digest in two halves.

    Raises:
        DataError: it is damaged.
    """
    path = folder / INDEX_NAME
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
        if index.ndim != 2 or index.shape[0] != 4 or index.dtype != np.dtype("<u8"):
            raise ValueError(f"{index.dtype} {index.shape}")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # NumPy parses its header as Python
        raise CacheError(f"the index of the cache is damaged: {error}", where=path, do=REPAIR) from None
    return index


def shard_path(folder: Path, number: int) -> Path:
    """File of one shard."""
    return folder / f"shard-{number:05d}.safetensors"
