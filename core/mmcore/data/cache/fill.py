"""Fill a cache: read images in worker processes, compute in batches, append shards, verify.

While one shard is hashed and forced to disk by a second thread, the next is being computed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmcore.base.files import replace_text
from mmcore.data.cache.features import (
    CACHE_NAME,
    DTYPES,
    REPAIR,
    CacheJob,
    Item,
    describe,
    digest_of,
    shard_path,
)
from mmcore.data.cache.shards import (
    BAD_NAME,
    damage,
    drop_damaged,
    drop_shard,
    only_writer,
    read_shard_record,
    remove_leftovers,
    rows_of,
    shard_numbers,
    write_description,
    write_index,
    write_shard,
)
from mmcore.data.cache.survey import Survey, refuse_full, stat_of, survey
from mmcore.data.loader import DEADLINE_S, init_worker, results_of
from mmcore.data.parcel import Unpacker, pack
from mmcore.data.pictures import Inside
from mmcore.errors import CacheError, DataError

SHARD_BYTES = 512 * 2**20
"""About this much per shard: what a kill can cost, and what waits in memory to be written."""
_STORED = {"fp16": torch.float16, "fp32": torch.float32}

Report = Callable[[int, int], None]
"""Told how many of how many are done."""


class Read(NamedTuple):
    """What a worker answers for some images: those that could be read, stacked, and what was wrong with the others."""

    keys: list[str]
    digests: list[str]
    stats: list[list[int]]
    inputs: dict[str, Tensor]
    bad: list[dict[str, str]]


class Filled(NamedTuple):
    """What was done."""

    made: int
    bad: int
    """Images that could not be read; they are listed in `bad.jsonl` of the folder."""
    rows: int
    """Of the whole cache."""
    verified: int
    """Shards whose checksum was read back."""


def fill(
    job: CacheJob,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    batch: int = 16,
    workers: int = 2,
    shard_bytes: int = SHARD_BYTES,
    stop_at_bad: bool = False,
    tell: Callable[[Survey], None] | None = None,
    report: Report | None = None,
) -> Filled:
    """Compute what is missing, verify what was written, and declare the cache complete.

    Args:
        job: what to compute.
        folder: of the cache; made if needed.
        device: where the networks run.
        batch: images per call of the networks.
        workers: processes that read images; 0 reads in this one.
        shard_bytes: size of a shard, about.
        stop_at_bad: an image that cannot be read is an error; otherwise it is listed and left out.
        tell: told what will be written, before anything is.
        report: told about progress, in images.

    Raises:
        DataError: another process writes this cache, it belongs to something else, the disk is too small, a value
            does not fit its precision, or a checksum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_writer(folder):
            drop_damaged(folder)
            found = survey(job, folder)
            if tell:
                tell(found)
            refuse_full(found, folder)
            if not (folder / CACHE_NAME).exists():
                write_description(job, folder, rows=0, covers={}, shards=[])
            made, bad = _make(job, folder, found, torch.device(device), batch, workers, shard_bytes, report)
            if bad and stop_at_bad:
                raise DataError(f"{len(bad)} images cannot be read: {bad[0]['what']}", where=bad[0]["where"])
            return _finish(job, folder, made, bad)
    except OSError as error:
        raise DataError(
            f"the cache cannot be written: {error.strerror or error}",
            where=folder,
            do="free some space and run the same command again: finished shards stay",
        ) from error


# Computing


def _make(
    job: CacheJob,
    folder: Path,
    found: Survey,
    device: torch.device,
    batch: int,
    workers: int,
    shard_bytes: int,
    report: Report | None,
) -> tuple[int, list[dict[str, str]]]:
    """Compute and append; the number of rows made, and images that could not be read."""
    bad: list[dict[str, str]] = []
    if not found.todo:
        return 0, bad
    make = job.make(device)
    chunks = [found.todo[start : start + batch] for start in range(0, len(found.todo), batch)]
    loader = DataLoader(
        _Images(job.read, chunks),
        batch_size=None,
        num_workers=workers,
        collate_fn=pack if workers else _as_it_is,  # type: ignore[arg-type] nothing is batched here
        timeout=DEADLINE_S if workers else 0,
        worker_init_fn=init_worker,
        pin_memory=device.type == "cuda",
    )
    done = found.kept
    with results_of(loader) as results, _Shards(job, folder, max(1, shard_bytes // job.row_bytes)) as shards:
        for chunk, read in zip(chunks, map(Unpacker(), results)):
            bad += read.bad
            if read.keys:
                inputs = {name: value.to(device, non_blocking=True) for name, value in read.inputs.items()}
                shards.add(read, make(inputs))
            done += len(chunk)
            if report:
                report(done, found.total)
    return shards.made, bad


class _Images(Dataset[Read]):
    """Chunks of images to their inputs; runs in workers."""

    def __init__(self, read: Callable[[Path | Inside], Mapping[str, Tensor]], chunks: Sequence[Sequence[Item]]) -> None:
        self._read, self._chunks = read, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> Read:
        result = Read([], [], [], {}, [])
        inputs: list[Mapping[str, Tensor]] = []
        for item in self._chunks[number]:
            try:
                stat, digest = stat_of(item.path), digest_of(item.path).hex()
                inputs.append(self._read(item.path))
            except DataError as error:
                result.bad.append({"key": item.key, "what": error.what, "where": error.where or str(item.path)})
                continue
            result.keys.append(item.key)
            result.digests.append(digest)
            result.stats.append(stat)
        for name in inputs[0] if inputs else ():
            result.inputs[name] = torch.stack([one[name] for one in inputs])
        return result


class _Shards:
    """Rows in, shards out."""

    def __init__(self, job: CacheJob, folder: Path, rows: int) -> None:
        self._job, self._folder, self._rows = job, folder, rows
        self._next = max([-1, *shard_numbers(folder)]) + 1
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self.made = 0
        self._start()

    def _start(self) -> None:
        self._values = {
            name: np.empty((self._rows, *field.shape), DTYPES[field.dtype]) for name, field in self._job.fields.items()
        }
        self._known = Read([], [], [], {}, [])

    def add(self, read: Read, values: Mapping[str, Tensor]) -> None:
        """Take in the rows of some images; full shards are handed to the writer.

        Raises:
            DataError: a value is not finite in the stored precision, or its shape is not the promised one.
        """
        arrays = {name: self._stored(name, values[name], read) for name in self._values}
        begin = 0
        while begin < len(read.keys):
            have = len(self._known.keys)
            take = min(self._rows - have, len(read.keys) - begin)
            for name, array in arrays.items():
                self._values[name][have : have + take] = array[begin : begin + take]
            for mine, theirs in zip(self._known[:3], read[:3], strict=True):
                mine.extend(theirs[begin : begin + take])  # type: ignore[arg-type]
            begin += take
            if len(self._known.keys) == self._rows:
                self._flush()

    def _stored(self, name: str, value: Tensor, read: Read) -> np.ndarray:
        field = self._job.fields[name]
        if tuple(value.shape) != (len(read.keys), *field.shape):
            raise DataError(
                f"{name} is {tuple(value.shape[1:])} instead of {field.shape}", where=f"image {read.keys[0]}"
            )
        array = value.detach().to("cpu", _STORED[field.dtype]).numpy()
        if not np.isfinite(array).all():
            worst = next(key for key, row in zip(read.keys, array, strict=True) if not np.isfinite(row).all())
            raise DataError(
                f"{name} is not finite in {field.dtype}", where=f"image {worst}", do="store it with --dtype fp32"
            )
        return array

    def _flush(self) -> None:
        if not self._known.keys:
            return
        count = len(self._known.keys)
        values = {name: array[:count] for name, array in self._values.items()}
        self._wait()
        self._writing = self._pool.submit(write_shard, self._folder, self._next, values, *self._known[:3])
        self._next += 1
        self.made += count
        self._start()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # Also after an error or a signal: what was computed is kept.
            self._flush()
            self._wait()
        finally:
            self._pool.shutdown()


# Finishing


def _finish(job: CacheJob, folder: Path, made: int, bad: Sequence[Mapping[str, str]]) -> Filled:
    """Verify shards that no finished run has verified, write the index, and say what the cache is complete for."""
    told = describe(folder)
    trusted = {shard["file"]: shard for shard in told["shards"]}
    shards, verified = [], 0
    for number in shard_numbers(folder):
        record = read_shard_record(folder, number)
        if record is None:
            continue
        entry = {"file": shard_path(folder, number).name, "size": record["size"], "sha256": record["sha256"]}
        if trusted.get(entry["file"]) != entry:
            if text := damage(folder, entry):
                drop_shard(folder, number)
                raise CacheError(text, where=folder, do=REPAIR)
            verified += 1
        shards.append(entry)
    rows = rows_of(folder)
    write_index(folder, rows)
    replace_text(folder / BAD_NAME, "".join(json.dumps(entry) + "\n" for entry in bad))
    covers = told["covers"] | dict(job.covers)
    write_description(job, folder, rows=len(rows), covers=covers, shards=shards)
    remove_leftovers(folder, {entry["file"] for entry in shards})
    return Filled(made, len(bad), len(rows), verified)


def _as_it_is(read: Read) -> Read:
    return read
