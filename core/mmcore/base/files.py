"""Files that are whole or absent: written once, hashed on the way, forced to disk, and put in place by a rename."""

import hashlib
import json
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 16 * 2**20
READABLE = 0o644
"""Mode of what others are to read: written by its owner, read by all."""
WRITING = ".writing-"
"""How names of files begin that are not whole yet; a killed process may leave some."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the manifest says of one file."""

    name: str
    size: int
    sha256: str


class HashingFile:
    """A new file that is hashed by a second thread while it is written, and is on the disk when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115 closed by `close`
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), CHUNK):
            piece = view[begin : begin + CHUNK]
            hashed = self._pool.submit(self._digest.update, piece)
            try:
                write_all(self._file, piece)
            finally:
                hashed.result()
            self._size += len(piece)

    def close(self) -> Written:
        os.fsync(self._file.fileno())
        self.abandon()
        return Written(self._path.name, self._size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close without promising anything."""
        self._pool.shutdown()
        self._file.close()


def write_all(file: BinaryIO, data: memoryview) -> None:
    """Write all of `data`; an unbuffered file may take less at a time."""
    done = 0
    while done < len(data):
        done += file.write(data[done:]) or 0


def write_json(path: Path, value: Any) -> Written:
    """Write a new JSON file."""
    file = HashingFile(path)
    try:
        file.write((json.dumps(value, indent=1) + "\n").encode())
        return file.close()
    except BaseException:
        file.abandon()
        raise


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """A new file beside `path` for the block to write, whole on the disk and in its place once the block has ended.

    A reader sees the older file or the new one. When the block raises, the older one stays.
    """
    temporary = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_bytes(path: Path, data: bytes) -> None:
    """Put a small file in place of an older one."""
    with replacing(path) as temporary, temporary.open("xb", buffering=0) as file:
        write_all(file, memoryview(data))


def replace_text(path: Path, text: str) -> None:
    """Put a small text file in place of an older one, in UTF-8."""
    replace_bytes(path, text.encode())


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
