"""What can happen to a file that lies around: one function a kind, each changes the file in its place."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def _again(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _flip(share: float) -> Damage:
    """One bit of the byte at this share of the file's length."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 4
        path.write_bytes(content)

    return damage


DAMAGES: dict[str, Damage] = {
    "removed": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 4096),
    "as large as a disk": lambda path: os.truncate(path, 1 << 40),
    **{f"a bit at {share:.0%}": _flip(share) for share in (0, 0.03, 0.25, 0.5, 0.9, 0.999)},
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "null": lambda path: path.write_bytes(b"null"),
    "a list": lambda path: path.write_bytes(b"[]"),
    "an empty object": lambda path: path.write_bytes(b"{}"),
    "nested lists": lambda path: path.write_bytes(b"[" * 200_000),
    "nested objects": lambda path: path.write_bytes(b'{"a":' * 200_000),
    "a pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "a folder": lambda path: _again(path, Path.mkdir),
    "a pipe": lambda path: _again(path, os.mkfifo),
    "a link to itself": lambda path: _again(path, lambda one: one.symlink_to(one)),
    "a link to a device": lambda path: _again(path, lambda one: one.symlink_to("/dev/zero")),
}
