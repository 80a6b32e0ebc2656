"""One process tree per run folder: an flock on a file in it, which the kernel releases however the holder ends."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mmcore.errors import CheckpointError

LOCK_NAME = ".lock"

_held: dict[int, str] = {}
"""Handles of the locks of this process, with their folders."""


def _let_go_in_child() -> None:
    # A forked data worker that outlives a killed trainer by seconds would otherwise keep the folder locked.
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def run_lock(run_dir: Path) -> Generator[None, None, None]:
    """Hold the run folder; inside its own lock a process holds it already.

    Raises:
        CheckpointError: another process holds it; its number is in the message.
    """
    folder = os.path.realpath(run_dir)
    if folder in _held.values():
        yield
        return
    handle = _opened(run_dir)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _in_use(run_dir, _number(handle)) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        _held[handle] = folder
        yield
    finally:
        _held.pop(handle, None)
        os.close(handle)


def _opened(run_dir: Path) -> int:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        return os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise CheckpointError(
            f"the run folder {run_dir} cannot be written: {error.strerror}",
            where=run_dir,
            do="check its permissions, or choose another --out",
        ) from None


def holder(run_dir: Path) -> int | None:
    """The process that trains in this folder now, or None."""
    path = run_dir / LOCK_NAME
    if not path.is_file():
        return None
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _number(handle)
    finally:
        os.close(handle)


def _number(handle: int) -> int:
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() else 0


def _in_use(run_dir: Path, process: int) -> CheckpointError:
    return CheckpointError(
        f"the run folder {run_dir} is in use by process {process or 'unknown'}",
        where=run_dir / LOCK_NAME,
        do="wait for that run, stop it, or choose another --out",
    )
