"""Whether the files of an index are what was written, and whether annotation files are what they were."""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcore.base.files import replace_text
from mmcore.base.jsonfile import read_json
from mmcore.errors import DataError, MissingDataError


def damage(folder: Path, cache: Path, fingerprint: str) -> str | None:
    """What is wrong with the files of an index, or None."""
    try:
        description = read_json(
            folder / "index.json",
            {"fingerprint": str, "meta": dict, "label": str, "num_records": int, "built": dict},
        )
        if description["fingerprint"] != fingerprint or description["self"] != self_hash(description):
            return "index.json was changed"
        for name, (size, digest) in description["built"].items():
            path = folder / Path(name).name
            if not path.is_file() or path.stat().st_size != size:
                return f"{name} has {path.stat().st_size if path.is_file() else 'no'} bytes instead of {size}"
            if file_sha256(path, cache) != digest:
                return f"{name} was changed"
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        return f"index.json cannot be read: {error}"
    return None


def self_hash(description: Mapping[str, Any]) -> str:
    """Of a description without its entry for this."""
    rest = {name: value for name, value in description.items() if name != "self"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path, cache: Path) -> str:
    """sha256 of a file's content, remembered in `cache` for as long as size, times and inode stay the same.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is a folder, a pipe or a device.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise MissingDataError(
            f"annotation file not found: {path}",
            where=error.strerror,
            do="point --data or $MMCORE_DATA to the folder that holds it, or pick other sources with --sources",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError("annotation file is not a regular file", where=path, do="name the file itself")
    known = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    memory = cache / "hashes" / f"{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        remembered = read_json(memory, {"status": list, "sha256": str})
        if remembered["status"] == known:
            return remembered["sha256"]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file changed within the last moments may change again without its time showing it.
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > 2_000_000_000:
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            replace_text(memory, json.dumps({"status": known, "sha256": digest, "path": str(path)}))
    return digest
