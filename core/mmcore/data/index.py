"""An annotation file, parsed once: records on disk, read by position with the same small memory at any size.

A finished index is a folder of flat files:

    records.bin   the bytes of every record, end to end
    offsets.bin   int64 place of each record in records.bin, and the end
    *.npy         one column per fact (width, height, num_objects, has_mask, or the parser's own), memory-mapped
    index.json    format, sources and the files above with size and sha256, number of records, category names

Reading is two `pread` calls; nothing is mapped or cached, so a worker's private memory does not grow however many
records it visits. Chosen by measuring (bench/index.py, 118 000 images, CPU time of a record's bytes and memory of a
process that read 12 000): this 2.6 us and 1 MiB, a memory map 1.5 us and 298 MiB, SQLite 13.5 us and 2 MiB.

The folder's name is made of the content: format version, parser options, and size and sha256 of every file. A build
happens under a lock, in a folder of its own that is renamed when complete, so several processes may ask at once and a
killed builder leaves nothing that could be mistaken for an index. An index is verified when it is opened; one that was
damaged is built again with a line that says so. Files' hashes are remembered with their size, times and inode, so that
an unchanged file of gigabytes is recognised in microseconds.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmcore.base.files import hash_file, replace_text, sync_file, sync_folder
from mmcore.base.lock import waited_for
from mmcore.base.progress import Count
from mmcore.base.terminal import tell
from mmcore.data.index_files import damage, file_sha256, self_hash
from mmcore.data.spread import spread
from mmcore.errors import CacheError, DataError

VERSION = 4
"""Layout of the folder; part of its name, so an older layout is simply built again beside it."""

_HASHED = 3
"""Goes into every fingerprint and stays: runs compare their data by it, which a new layout does not change."""

PARALLEL_FROM = 50_000
"""Records below this are written by the calling process; starting others takes longer."""

COLUMN_TYPES = {
    "width": np.int32,
    "height": np.int32,
    "num_objects": np.int32,
    "has_mask": np.uint8,
    "num_defects": np.int32,
}
"""The columns of a parser that names none."""
STARTS = "starts"
"""Entry of an index's facts: the number of the first record of each of its files."""
_RANGE = struct.Struct("<qq")

Report = Callable[[str, float], None]
"""Told what is being done, and which share of it is done."""


class Prepared(NamedTuple):
    """What a parser knows after reading its files once."""

    num_records: int
    meta: dict[str, Any]
    """Facts about the whole, JSON values: category names, counts of what was left out."""


class Parser(Protocol):
    """One annotation format. A frozen dataclass of paths and options; instances travel to other processes.

    A parser of something else than images with objects names its facts in `columns`, a mapping from name to NumPy type.
    """

    @property
    def format(self) -> str:
        """Name and version, "coco-instances/1"; the version grows whenever records change."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the records come from."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Everything else that decides the records, JSON values."""
        ...

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Read the files once; leave in `folder` what `records` needs."""
        ...

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The bytes and the facts of records start to stop, in their final order."""
        ...


class Index:
    """A finished index. Picklable; every process opens the files for itself when it first reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        description = json.loads((folder / "index.json").read_text())
        self.fingerprint: str = description["fingerprint"]
        self.meta: dict[str, Any] = description["meta"]
        self.label: str = description["label"]
        """What the records come from, for messages."""
        self.labels: tuple[str, ...] = ()
        """The same of each file, where every record is of one of several."""
        self._length: int = description["num_records"]
        self._files: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> bytes:
        """The bytes of record `number`, as the parser wrote them.

        Raises:
            IndexError: there is no such record.
            CacheError: the index was damaged after it was opened.
        """
        if not 0 <= number < self._length:
            raise IndexError(f"record {number} of {self._length}")
        offsets, records = self._files or self._open()
        try:
            start, end = _RANGE.unpack(os.pread(offsets, 16, 8 * number))
            content = os.pread(records, end - start, start)
            if len(content) == end - start:
                return content
            problem = "cut short"
        except (struct.error, ValueError, OSError) as error:
            problem = str(error)
        raise CacheError(
            f"record {number} of the index is damaged: {problem}",
            where=self.folder,
            do="start again: the index is verified when it is opened, and built anew from the annotation file",
        )

    def label_of(self, number: int) -> str:
        """The file that record `number` comes from, for messages."""
        return self.labels[bisect_right(self.meta[STARTS], number) - 1] if self.labels else self.label

    def column(self, name: str) -> np.ndarray:
        """(records,) memory-mapped facts: width, height, num_objects or has_mask, or what the parser names."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def _open(self) -> tuple[int, int]:
        self._files = (
            os.open(self.folder / "offsets.bin", os.O_RDONLY | os.O_CLOEXEC),
            os.open(self.folder / "records.bin", os.O_RDONLY | os.O_CLOEXEC),
        )
        return self._files

    def close(self) -> None:
        """Give back the file handles; reading opens them again."""
        if self._files:
            for handle in self._files:
                os.close(handle)
            self._files = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}


def open_index(parser: Parser, cache: Path, *, workers: int | None = None, report: Report | None = None) -> Index:
    """The index of a parser's records, built now if it does not exist.

    Args:
        parser: what to read.
        cache: folder that holds indexes, one subfolder each.
        workers: processes that write records; None takes the processor's cores, at most 8.
        report: told about progress; None writes a line to stderr.

    Raises:
        MissingDataError: an annotation file is missing.
        DataError: a file is not what the parser reads, or the cache cannot be written.
    """
    fingerprint, files = _fingerprint(parser, cache)
    folder = cache / f"{parser.format.replace('/', '-')}-{fingerprint[:20]}-{VERSION}"
    if (folder / "index.json").is_file():
        if (fault := damage(folder, cache, fingerprint)) is None:
            return _opened(folder, parser)
        tell(f"the index {folder} was damaged ({fault}) and is built again")
    if getattr(current_process(), "_inheriting", False):
        # A process that its parent started to help with this very index, running the parent's script once more because
        # that has no `__main__` guard: it would wait for its own parent's lock.
        raise SystemExit(1)
    line = Count("index", quiet_s=0.5, show=report is None)
    report = report or (lambda doing, share: line(share, label=f"index: {doing}"))
    try:
        with waited_for(
            folder.with_suffix(".lock"), lambda: report("waiting for another process that builds this index", 0.0)
        ):
            if not (folder / "index.json").is_file() or damage(folder, cache, fingerprint):
                shutil.rmtree(folder, ignore_errors=True)
                _build(parser, folder, fingerprint, files, workers, report)
    except OSError as error:
        raise DataError(
            f"the index cannot be written: {error}",
            where=folder,
            do="free some space, or choose another folder with $MMCORE_CACHE",
        ) from error
    finally:
        line.close("index: ready")
    return _opened(folder, parser)


def _opened(folder: Path, parser: Parser) -> Index:
    """The index, called by where its files lie now: the same content may have been indexed elsewhere."""
    index = Index(folder)
    index.label = _label(parser)
    if len(index.meta.get(STARTS, ())) == len(parser.files):
        index.labels = tuple(map(str, parser.files))
    return index


def _label(parser: Parser) -> str:
    """The files of a parser, for messages."""
    first, rest = parser.files[:3], len(parser.files) - 3
    return " + ".join(str(path) for path in first) + (f" and {rest} more files" if rest > 0 else "")


def _fingerprint(parser: Parser, cache: Path) -> tuple[str, list[dict[str, Any]]]:
    files = [
        {"name": path.name, "size": os.path.getsize(path) if path.exists() else 0, "sha256": digest}
        for path, digest in zip(parser.files, _hashes(parser.files, cache), strict=True)
    ]
    content = [_HASHED, parser.format, dict(parser.options), [[file["size"], file["sha256"]] for file in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), files


def _hashes(paths: Sequence[Path], cache: Path) -> list[str]:
    """Hashes of files, of several at once by threads: hashing and reading wait for nothing of Python's."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(partial(file_sha256, cache=cache), paths))


def _build(
    parser: Parser, folder: Path, fingerprint: str, files: Sequence[object], workers: int | None, report: Report
) -> None:
    for abandoned in folder.parent.glob(folder.name + ".building-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # the lock is ours, so its builder is dead
    building = folder.parent / f"{folder.name}.building-{os.getpid()}"
    scratch = building / "scratch"
    scratch.mkdir(parents=True)
    try:
        prepared = parser.prepare(scratch, report)
        parts = _write_parts(parser, scratch, prepared.num_records, workers, report)
        _join(parts, building, _columns(parser))
        description = {
            "version": VERSION,
            "format": parser.format,
            "label": _label(parser),
            "files": files,
            "options": dict(parser.options),
            "fingerprint": fingerprint,
            "num_records": prepared.num_records,
            "meta": prepared.meta,
        }
        shutil.rmtree(scratch)
        description["built"] = {path.name: hash_file(path) for path in sorted(building.iterdir())}
        # As JSON gives it back, so that its own hash can be made again.
        description = json.loads(json.dumps(description))
        description["self"] = self_hash(description)
        replace_text(building / "index.json", json.dumps(description, indent=1))
        for path in building.iterdir():
            sync_file(path)
        sync_folder(building)
        os.rename(building, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


class _Part(NamedTuple):
    """Records start to stop in files of their own."""

    folder: Path
    start: int
    stop: int


def _write_parts(parser: Parser, scratch: Path, count: int, workers: int | None, report: Report) -> list[_Part]:
    processes = min(workers or os.cpu_count() or 1, 8)
    if count < PARALLEL_FROM or processes < 2:
        part = _Part(scratch / "part0", 0, count)
        for done in _write_part(parser, scratch, part):
            report("writing records", done / max(1, count))
        return [part]
    # Several parts per process, so that progress shows and uneven parts even out.
    edges = np.linspace(0, count, 8 * processes + 1).astype(int)
    parts = [_Part(scratch / f"part{i}", int(start), int(stop)) for i, (start, stop) in enumerate(pairwise(edges))]
    jobs = [(parser, scratch, part) for part in parts]
    for done, _ in enumerate(spread(_write_whole_part, jobs, processes), 1):
        report("writing records", done / len(parts))
    return parts


def _write_whole_part(job: tuple[Parser, Path, _Part]) -> None:
    for _ in _write_part(*job):
        pass


def _write_part(parser: Parser, scratch: Path, part: _Part) -> Iterator[int]:
    """Write records.bin, lengths and columns of one part; yields the number of records written now and then."""
    shutil.rmtree(part.folder, ignore_errors=True)
    part.folder.mkdir()
    count = part.stop - part.start
    lengths = np.zeros(count, np.int64)
    columns = {name: np.zeros(count, kind) for name, kind in _columns(parser).items()}
    with open(part.folder / "records.bin", "wb", buffering=1 << 20) as file:
        for i, (record, facts) in enumerate(parser.records(scratch, part.start, part.stop)):
            file.write(record)
            lengths[i] = len(record)
            for name, column in columns.items():
                column[i] = facts[name]
            if i % 4096 == 0:
                yield i
    np.save(part.folder / "lengths.npy", lengths)
    for name, column in columns.items():
        np.save(part.folder / f"{name}.npy", column)


def _columns(parser: Parser) -> Mapping[str, Any]:
    return getattr(parser, "columns", COLUMN_TYPES)


def _join(parts: Sequence[_Part], building: Path, columns: Iterable[str]) -> None:
    with open(building / "records.bin", "wb") as out:
        for part in parts:
            with open(part.folder / "records.bin", "rb") as file:
                shutil.copyfileobj(file, out, 1 << 22)
            os.unlink(part.folder / "records.bin")
    lengths = np.concatenate([np.load(part.folder / "lengths.npy") for part in parts])
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype("<i8")
    offsets.tofile(building / "offsets.bin")
    for name in columns:
        np.save(building / f"{name}.npy", np.concatenate([np.load(part.folder / f"{name}.npy") for part in parts]))
