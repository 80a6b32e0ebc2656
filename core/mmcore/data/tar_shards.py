"""Pictures in tar files, read where they are: an index of name -> (shard, place, size), made once and kept.

    images: SA1B_scaleup/images            # a folder with nothing but shards: sa_000000.tar, sa_000001.tar, ...
    images: grit-20m/{00000..09999}.tar    # a pattern, as webdataset writes it; * and ** serve too
    images: coco/train2017.tar             # one tar

A record names a member as it is in its tar, or behind the name of the shard: `sa_000000/sa_1.jpg` is `sa_1.jpg` of
`sa_000000.tar`, so annotations hold whether the shards were unpacked or not. Where all members of all shards lie in one
folder, records may leave that folder out.

The index is one of `mmcore.data.index`: its records are buckets of about `BUCKET` members, chosen by 64 bits of a hash
of the name, so a member is found by two short reads however many there are, and a process keeps nothing in memory. It
belongs to shards of these sizes and times; another shard in the place of one is noticed when the index is opened, and
when a member is read. Every read opens the tar anew, as every picture of a folder is opened: nothing is shared between
threads or over a fork, and no number of shards runs out of file handles.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mmcore.data.images import Held
from mmcore.data.index import Index, Prepared, Report, open_index
from mmcore.data.spread import spread
from mmcore.data.tar_members import members, plain
from mmcore.errors import DataError, MissingDataError, suggest

BUCKET = 32
"""Members that one read of the index fetches, on average."""

PARALLEL_FROM = 1 << 32
"""Bytes of all shards below which the calling process lists them; starting others takes longer."""

ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<i8"), ("size", "<i8"), ("shard", "<u4")])
"""One member: 128 bits of a hash of its name, and where its bytes are."""
_ROW = struct.Struct("<QQqqI")


class Stamp(NamedTuple):
    """What a shard was when it was listed."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """From what the system says of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def same(self, other: "Stamp") -> bool:
        """Whether the bytes are the same; the last time also changes with a file's rights or links."""
        return self[:3] == other[:3]


@dataclass(frozen=True, slots=True)
class TarMembers:
    """Parser of shards; its records are buckets of `ROW`.

    Attributes:
        base: folder of the shards.
        shards: their paths below it.
        stamps: of each.
    """

    base: Path
    shards: tuple[str, ...]
    stamps: tuple[Stamp, ...]

    columns: ClassVar[Mapping[str, Any]] = {}

    @property
    def format(self) -> str:
        return "tar-members/1"

    @property
    def files(self) -> tuple[Path, ...]:
        """None: hashing terabytes would take hours, so shards are known by their stamps."""
        return ()

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "base": str(self.base.resolve()),
            "shards": [[name, *stamp] for name, stamp in zip(self.shards, self.stamps, strict=True)],
        }

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """List every shard into a file of rows sorted by their hashes."""
        jobs = [(self.base / name, number, folder / f"{number}.npy") for number, name in enumerate(self.shards)]
        listed = []
        processes = min(os.cpu_count() or 1, 8) if sum(one.size for one in self.stamps) >= PARALLEL_FROM else 1
        for one in spread(_list, jobs, processes):
            listed.append(one)
            report(f"listing {self.shards[len(listed) - 1]}", len(listed) / len(jobs))
        count = sum(one.count for one in listed)
        tops = {one.top for one in listed if one.count}
        bits = max(0, (count // BUCKET).bit_length() - 1) if count else 0
        meta = {"members": count, "bits": bits, "top": tops.pop() if len(tops) == 1 else None}
        return Prepared(1 << bits, meta)

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The buckets `start` to `stop`; which bits of the hash they are follows from how many there are in all."""
        listed = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(len(self.shards))]
        count = sum(map(len, listed))
        shift = np.uint64(64 - max(0, (count // BUCKET).bit_length() - 1)) if count else np.uint64(64)
        rows = np.concatenate([_between(one, start, stop, int(shift)) for one in listed])
        rows = rows[np.argsort(rows["high"], kind="stable")]
        buckets = _bucket(rows["high"], int(shift))
        edges = np.searchsorted(buckets, np.arange(start, stop + 1, dtype=np.uint64))
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            yield rows[begin:end].tobytes(), {}


class Place(NamedTuple):
    """Where a member's bytes are."""

    shard: int
    offset: int
    size: int


class Shards:
    """Tar files in the place of a folder of pictures. Picklable, and good in any number of processes and threads.

    Args:
        base: folder of the shards.
        names: their paths below it.
        stamps: of each.
        index: of their members.
    """

    def __init__(self, base: Path, names: Sequence[str], stamps: Sequence[Stamp], index: Index) -> None:
        self.base, self.names, self.stamps, self.index = base, tuple(names), tuple(stamps), index
        self._numbers = {_stem(name): number for number, name in enumerate(self.names)}
        self._shift: int = 64 - index.meta["bits"]
        self._top: str | None = index.meta["top"]

    def __len__(self) -> int:
        """How many members there are."""
        return self.index.meta["members"]

    def __str__(self) -> str:
        return str(self.base / self.names[0]) if len(self.names) == 1 else f"{len(self.names)} tars in {self.base}"

    def find(self, name: str) -> Place:
        """Where a member is.

        Args:
            name: as it is in its tar, or behind its shard's name.

        Raises:
            MissingDataError: no shard has it.
            DataError: several have, or it is a link or a device.
        """
        name = plain(name)
        rows = self._rows(name)
        if not len(rows):
            rows = self._behind_its_shard(name)
        if not len(rows) and self._top:
            rows = self._rows(f"{self._top}/{name}")
        if not len(rows):
            raise MissingDataError(f"no member {name!r} in {self}", where=self.base, do=self._advice(name))
        holders = np.unique(rows["shard"]).tolist()
        if len(holders) > 1:
            stems = [_stem(self.names[number]) for number in holders]
            raise DataError(
                f"{len(holders)} shards have a member {name!r}",
                where=self.base,
                known=[f"{stem}/{name}" for stem in stems[:8]],
                do="write the shard's name before it in the annotations",
            )
        row = rows[-1]  # of several in one archive the last counts, as when it is unpacked
        if row["size"] < 0:
            raise DataError(
                f"the member {name!r} is a link, a device or a sparse file, and has no bytes of its own",
                where=self.base / self.names[holders[0]],
                do="write the tar anew with files in the place of links: tar --dereference --hard-dereference",
            )
        return Place(holders[0], int(row["offset"]), int(row["size"]))

    def has(self, name: str) -> bool:
        """Whether `held` would find it."""
        try:
            self.find(name)
        except DataError:
            return False
        return True

    def held(self, name: str) -> Held:
        """A member with its bytes.

        Raises:
            MissingDataError: no shard has it, or its shard is gone.
            DataError: as `find`; or the shard was replaced since it was listed, or cannot be read.
        """
        number, offset, size = self.find(name)
        path = self.base / self.names[number]
        again = "start again: the tars are listed anew when the data is opened"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not self.stamps[number].same(Stamp.of(os.fstat(handle))):
                    raise DataError(
                        "the tar was replaced or written to since its members were listed",
                        where=path,
                        do=again,
                    )
                content = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        except FileNotFoundError:
            raise MissingDataError("the tar is gone since its members were listed", where=path, do=again) from None
        except OSError as error:
            raise DataError(f"the tar cannot be read: {error.strerror}", where=path, do="check the disk") from None
        if len(content) != size:
            raise DataError(f"the tar has {len(content):,} of the {size:,} bytes of {name}", where=path, do=again)
        return Held(content, f"{path}, member {name}")

    def _rows(self, name: str) -> np.ndarray:
        """The rows of a name in all shards, in their order."""
        high, low = hashed(name)
        rows = np.frombuffer(self.index[high >> self._shift], ROW)
        return rows[(rows["high"] == high) & (rows["low"] == low)]

    def _behind_its_shard(self, name: str) -> np.ndarray:
        """The rows of a name whose first part is a shard's."""
        cut = name.find("/")
        while cut > 0:
            if (number := self._numbers.get(name[:cut])) is not None:
                rows = self._rows(name[cut + 1 :])
                return rows[rows["shard"] == number]
            cut = name.find("/", cut + 1)
        return np.zeros(0, ROW)

    def _advice(self, name: str) -> str:
        shard, _, rest = name.rpartition("/")
        if shard and shard not in self._numbers:
            return suggest(shard, self._numbers, f"a shard {shard}.tar is not here; fetch it, or correct the names")
        return f"look into the tar (tar -tf), and correct the names of the annotations{': ' + rest if rest else ''}"


def hashed(name: str) -> tuple[int, int]:
    """128 bits for a name, in two halves."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def open_shards(base: Path, shards: Sequence[Path], cache: Path) -> Shards:
    """Shards with the index of their members, made now if there is none.

    Args:
        base: folder that they are named by.
        shards: paths of tar files below it.
        cache: folder that holds indexes.

    Raises:
        MissingDataError: one is not there.
        DataError: one is compressed, damaged, cut short or no tar.
    """
    try:
        stamps = tuple(Stamp.of(os.stat(path)) for path in shards)
    except OSError as error:
        raise MissingDataError(f"the tar cannot be read: {error.strerror}", where=error.filename) from None
    names = tuple(path.relative_to(base).as_posix() for path in shards)
    return Shards(base, names, stamps, open_index(TarMembers(base, names, stamps), cache))


# ---- listing ----


class Listed(NamedTuple):
    """What is known of a shard once its rows are written."""

    count: int
    top: str | None
    """The folder that all its members lie in."""


def _list(job: tuple[Path, int, Path]) -> Listed:
    """Write the rows of a shard, sorted by the hashes of their names."""
    path, number, target = job
    rows, tops = bytearray(), set()
    for member in members(path):
        rows += _ROW.pack(*hashed(member.name), member.offset, member.size, number)
        tops.add(member.name.partition("/")[0] if "/" in member.name else None)
    table = np.frombuffer(rows, ROW)
    np.save(target, table[np.argsort(table["high"], kind="stable")])
    return Listed(len(table), tops.pop() if len(tops) == 1 else None)


def _bucket(high: np.ndarray, shift: int) -> np.ndarray:
    return high >> np.uint64(shift) if shift < 64 else np.zeros(len(high), np.uint64)


def _between(rows: np.ndarray, start: int, stop: int, shift: int) -> np.ndarray:
    """Those of a shard's sorted rows that belong to some buckets."""
    high = rows["high"]
    first = int(np.searchsorted(high, np.uint64(start << shift))) if start else 0
    past = stop << shift
    return np.asarray(rows[first : int(np.searchsorted(high, np.uint64(past))) if past < 1 << 64 else len(rows)])


def _stem(name: str) -> str:
    return name.removesuffix(".tar")
