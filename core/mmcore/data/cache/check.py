"""Is a cache what it says? Its maker, the checksums of its shards, its index, and every image it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcore.data.cache.features import CacheJob, Item, describe, digest_of, first_damage, hash_of, open_index, unfit
from mmcore.data.cache.fill import Report
from mmcore.data.cache.shards import Present, bad_keys, damage, rows_of
from mmcore.errors import CacheError, DataError


def verify(job: CacheJob, folder: Path, report: Report | None = None) -> list[str]:
    """Everything that is wrong with a cache: its identity, its shards' checksums, its index, and every image.

    Returns:
        Sentences; none when all is well.

    Raises:
        MissingDataError: there is no cache.
        DataError: its description is damaged.
    """
    told = describe(folder)
    problems = [f"made by something else: {entry}" for entry in unfit(folder, job.identity)]
    items = list({item.key: item for item in job.items()}.values())
    total, done = len(told["shards"]) + len(items), 0
    for shard in told["shards"]:
        problems += [text] if (text := damage(folder, shard)) else []
        done += 1
        if report:
            report(done, total)
    problems += _check_index(folder, told)
    present, excused = rows_of(folder), bad_keys(folder)
    for item in items:
        problems += [text] if (text := _stale(item, present, excused)) else []
        done += 1
        if report:
            report(done, total)
    return problems


def _check_index(folder: Path, told: Mapping[str, Any]) -> list[str]:
    if "index" in told and (fault := first_damage(folder, {"shards": [told["index"]]}, all_again=True)):
        return [f"the index of the cache is damaged: {fault}"]
    try:
        index = open_index(folder)
    except CacheError as error:
        return [error.what]
    rows = rows_of(folder)
    found = {int(key): int(place) for key, place in zip(index[0], index[1], strict=True)}
    wanted = {int(hash_of(key)): row.shard << 32 | row.row for key, row in rows.items()}
    problems = [] if found == wanted else ["the index does not agree with the shards"]
    return problems if told["rows"] == len(rows) else [*problems, f"{len(rows)} rows instead of {told['rows']}"]


def _stale(item: Item, present: Mapping[str, Present], excused: set[str]) -> str | None:
    """What is wrong between an image and its row, as a sentence."""
    row = present.get(item.key)
    if row is None:
        return None if item.key in excused else f"image {item.key} is not in the cache"
    try:
        digest = digest_of(item.path).hex()
    except DataError as error:
        return f"image {item.key}: {error.what}"
    return None if digest == row.digest else f"image {item.key} has changed since its targets were cached"
