"""Why a process of several failed, left where the launcher finds it: it tells the first cause in time.

When one process dies, the others lose their connection to it within milliseconds, and each of them fails with a
traceback of the transport. What they say is an echo; the launcher shows the words of the one that failed by itself.
"""

import contextlib
import errno
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.base.files import replace_text
from mmcore.errors import FileSystemError, MmcoreError

FOLDER_VARIABLE = "MMCORE_FAILURES"
"""Set by the launcher: where failures are left."""

_PEER = (
    "connection closed by peer", "connection reset", "broken pipe", "connection refused", "gloo", "nccl", "socket",
    "timed out waiting", "distbackenderror", "tcpstore", "recvvalue", "connectfullmesh",
)  # fmt: skip
"""Words of the transports when another process is gone."""


_ELSEWHERE = "choose another place: --out, or MMCORE_CACHE for indexes, caches and sample data"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), f"free space there, or {_ELSEWHERE}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), f"check its permissions, or {_ELSEWHERE}"),
    errno.ENAMETOOLONG: "no name in a path may have more than 255 bytes",
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        "a file lies where a folder should, or a folder where a file should",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n), or use fewer --workers"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "its disk or network drive fails: see the system's log"),
}
"""What to do about errors of the system that are nobody's mistake in a program."""


def refusal(error: BaseException) -> FileSystemError | None:
    """What to tell instead of an error of the system about a file, or None where it is another kind of error."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES or is_echo(error):
        return None
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | Path)]
    what = f"a file cannot be used: {error.strerror}"
    return FileSystemError(what, where=" and ".join(names) or None, do=_REMEDIES[error.errno])


class Failure(NamedTuple):
    """What a failed process left."""

    time_ns: int
    rank: int
    code: int
    echo: bool
    """Whether it only lost another process."""
    text: str


def is_echo(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    if isinstance(error, MmcoreError) or not isinstance(error, RuntimeError | OSError):
        return False
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in _PEER)


def describe(error: BaseException) -> str:
    """What a person is shown: kind, what happened, where, what is known, what to do."""
    return f"{type(error).__name__}: {error}"


def full_text(error: BaseException) -> str:
    """The description, and for what no message was written for, the traceback."""
    if isinstance(error, MmcoreError):
        return describe(error)
    return "".join(traceback.format_exception(error)).rstrip()


def leave(error: BaseException, code: int) -> bool:
    """Leave a failure for the launcher; False when this process was not started by one that collects them."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return False
    rank = int(os.environ.get("RANK", "0"))  # as the launcher set it
    record = {"time_ns": time.time_ns(), "rank": rank, "code": code, "echo": is_echo(error), "text": full_text(error)}
    target = Path(folder) / f"failure-{rank}.json"
    try:
        replace_text(target, json.dumps(record))
    except OSError:
        return False
    return True


def collect(folder: Path) -> list[Failure]:
    """The failures left in a folder, the first in time first."""
    found = []
    for path in folder.glob("failure-*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found.append(Failure(**record))
    return sorted(found)
