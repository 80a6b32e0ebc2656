"""One process at a time: a lock on a file that the system releases however its holder ends.

The file says who holds it. A forked data worker does not: one that outlives a killed trainer by seconds keeps nothing
locked.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mmcore.errors import CheckpointError, MmcoreError

LOCK_NAME = ".lock"

_held: set[str] = set()
"""Run folders that this process holds."""


@contextmanager
def held(path: Path, taken: Callable[[int], MmcoreError]) -> Generator[None, None, None]:
    """Hold the lock at `path`, or fail at once.

    Args:
        path: of the lock file; its folder exists.
        taken: what to raise when another process holds it, from that one's number (0 where it is not known).

    Raises:
        OSError: the file cannot be written; only before the block begins.
    """
    lock = _acquired(path, taken)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_for(path: Path, tell: Callable[[], None]) -> Generator[None, None, None]:
    """Hold the lock at `path` once it is free; `tell` is called when that needs waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        tell()
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def run_lock(run_dir: Path) -> Generator[None, None, None]:
    """Hold the run folder; inside its own lock a process holds it already.

    Raises:
        CheckpointError: another process holds it; its number is in the message.
    """
    folder = os.path.realpath(run_dir)
    if folder in _held:
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _acquired(run_dir / LOCK_NAME, lambda process: _in_use(run_dir, process))
    except OSError as error:
        raise CheckpointError(
            f"the run folder {run_dir} cannot be written: {error.strerror}",
            where=error.filename or run_dir,
            do="check its permissions, or choose another --out",
        ) from None
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        lock.release()


def holder(run_dir: Path) -> int | None:
    """The process that trains in this folder now, or None; 0 where its number is not known."""
    path = run_dir / LOCK_NAME
    if not path.is_file():
        return None
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _number(path)
    except OSError:  # somebody else's folder, which only its owner can lock
        return _number(path) if _alive(_number(path)) else None
    lock.release()
    return None


def _acquired(path: Path, taken: Callable[[int], MmcoreError]) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise taken(_number(path)) from None
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except BaseException:
        lock.release()
        raise
    return lock


def _number(path: Path) -> int:
    text = path.read_text(encoding="ascii", errors="replace").strip()
    return int(text) if text.isdigit() else 0


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return process > 0


def _in_use(run_dir: Path, process: int) -> CheckpointError:
    return CheckpointError(
        f"the run folder {run_dir} is in use by process {process or 'unknown'}",
        where=run_dir / LOCK_NAME,
        do="wait for that run, stop it, or choose another --out",
    )
