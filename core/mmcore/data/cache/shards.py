"""The files of a cache as its writer handles them: shards with their records, the index, the description, the lock.

Everything is written under another name, forced to disk and renamed, so that a reader or a later writer finds it whole
or not at all.
"""

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from mmcore.base.files import READABLE, WRITING, hash_file, replace_text, replacing
from mmcore.base.jsonfile import read_json, read_json_lines
from mmcore.base.lock import held
from mmcore.base.terminal import tell
from mmcore.data.cache.features import (
    CACHE_NAME,
    INDEX_NAME,
    VERSION,
    CacheJob,
    describe,
    first_damage,
    hash_of,
    own_hash,
    shard_path,
)
from mmcore.errors import DataError

LOCK_NAME = ".lock"
BAD_NAME = "bad.jsonl"


class Present(NamedTuple):
    """A row that is there."""

    shard: int
    row: int
    digest: str
    """Of the image's content, hexadecimal."""
    stat: list[int]
    """Size and time of the image's file when it was read."""


def rows_of(folder: Path) -> dict[str, Present]:
    """Every row of finished shards by image; where an image has several, the newest. Shards that lost bytes do not
    count."""
    rows: dict[str, Present] = {}
    for number in shard_numbers(folder):
        told = read_shard_record(folder, number)
        if told is None:
            continue
        for row, (key, digest, stat) in enumerate(zip(told["keys"], told["digests"], told["stats"], strict=True)):
            rows[key] = Present(number, row, digest, stat)
    return rows


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of shards that have a record, in order."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.json"))


def read_shard_record(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a shard, or None when it or its shard is damaged."""
    path = shard_path(folder, number)
    with contextlib.suppress(OSError, ValueError, TypeError):
        told = read_json(path.with_suffix(".json"), _RECORD)
        as_written = told.get("self", own_hash(told)) == own_hash(told)
        same_length = len(told["keys"]) == len(told["digests"]) == len(told["stats"])
        if as_written and same_length and told["size"] == path.stat().st_size:
            return told
    return None


_RECORD = {"size": int, "sha256": str, "keys": list, "digests": list, "stats": list}


def drop_shard(folder: Path, number: int) -> None:
    """Let a shard no longer count: without its record its rows are made again."""
    shard_path(folder, number).with_suffix(".json").unlink(missing_ok=True)


def drop_damaged(folder: Path) -> None:
    """Take out what was damaged since the cache was finished, so that it is made again."""
    if not (folder / CACHE_NAME).exists():
        return
    for shard in describe(folder)["shards"]:
        number = int(Path(shard["file"]).stem.removeprefix("shard-"))
        if fault := first_damage(folder, {"shards": [shard]}):
            tell(f"{fault}: its rows are made again")
            drop_shard(folder, number)


def bad_keys(folder: Path) -> set[str]:
    """Images that could not be read when the cache was last filled."""
    return {entry["key"] for entry in read_json_lines(folder / BAD_NAME, {"key": str})}


@contextlib.contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Hold the cache; the system lets go of it however this process ends.

    Raises:
        DataError: another process writes it.
    """

    def taken(process: int) -> DataError:
        return DataError(
            f"process {process or 'unknown'} is writing this cache", where=folder, do="wait for it, or stop it"
        )

    with held(folder / LOCK_NAME, taken):
        yield


def write_shard(
    folder: Path,
    number: int,
    values: Mapping[str, np.ndarray],
    keys: Sequence[str],
    digests: Sequence[str],
    stats: Sequence[Sequence[int]],
) -> None:
    """Write one shard and then its record, which makes it count."""
    path = shard_path(folder, number)
    with replacing(path) as writing:
        save_file({name: np.ascontiguousarray(array) for name, array in values.items()}, writing)
        writing.chmod(READABLE)
        size, sha256 = hash_file(writing)
    record = {"size": size, "sha256": sha256, "keys": keys, "digests": digests, "stats": stats}
    record = json.loads(json.dumps(record))  # as it is read back, so that its own hash can be made again
    replace_text(path.with_suffix(".json"), json.dumps(record | {"self": own_hash(record)}))


def write_index(folder: Path, rows: Mapping[str, Present]) -> None:
    """Write where every image lies.

    Raises:
        DataError: two images cannot be told apart.
    """
    hashes = np.array([hash_of(key) for key in rows], "<u8")
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    if (hashes[1:] == hashes[:-1]).any():
        raise DataError("two image paths have the same 64 bit hash", where=folder, do="rename one of the images")
    places = np.array([row.shard << 32 | row.row for row in rows.values()], "<u8")
    digests = np.frombuffer(bytes.fromhex("".join(row.digest for row in rows.values())), "<u8").reshape(-1, 2)
    index = np.stack([hashes, places[order], *digests[order].T])
    with replacing(folder / INDEX_NAME) as writing:
        np.save(writing, index, allow_pickle=False)


def write_description(
    job: CacheJob, folder: Path, *, rows: int, covers: Mapping[str, str], shards: Sequence[Mapping[str, Any]]
) -> None:
    """Write `cache.json`."""
    told = {
        "version": VERSION,
        "identity": dict(job.identity),
        "fields": {name: [list(field.shape), field.dtype] for name, field in job.fields.items()},
        "covers": dict(covers),
        "rows": rows,
        "made_with": {"torch": torch.__version__, "numpy": np.__version__},
        "shards": list(shards),
    }
    if (folder / INDEX_NAME).is_file():
        size, sha256 = hash_file(folder / INDEX_NAME)
        told["index"] = {"file": INDEX_NAME, "size": size, "sha256": sha256}
    told = json.loads(json.dumps(told))  # as it is read back, so that its own hash can be made again
    told["self"] = own_hash(told)
    replace_text(folder / CACHE_NAME, json.dumps(told, indent=1))


def remove_leftovers(folder: Path, used: set[str]) -> None:
    """Halves that a killed writer left; the lock is ours."""
    for path in [*folder.glob(f"{WRITING}*"), *folder.glob("shard-*")]:
        if path.with_suffix(".safetensors").name not in used:
            path.unlink()


def damage(folder: Path, shard: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard's bytes, as a sentence."""
    path = folder / Path(shard["file"]).name
    try:
        size, sha256 = hash_file(path)
    except OSError as error:
        return f"shard {path.name} cannot be read: {error.strerror}"
    if size != shard["size"]:
        return f"shard {path.name} has {size:,} bytes instead of {shard['size']:,}"
    return None if sha256 == shard["sha256"] else f"shard {path.name} is damaged: its checksum differs"
