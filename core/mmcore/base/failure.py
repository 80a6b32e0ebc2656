"""Why a process of several failed, left where the launcher finds it: it tells the first cause in time.

When one process dies, the others lose their connection to it within milliseconds, and each of them fails with a
traceback of the transport. What they say is an echo; the launcher shows the words of the one that failed by itself.
"""

import contextlib
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.base.files import replace_text
from mmcore.errors import MmcoreError

FOLDER_VARIABLE = "MMCORE_FAILURES"
"""Set by the launcher: where failures are left."""

_PEER = (
    "connection closed by peer", "connection reset", "broken pipe", "connection refused", "gloo", "nccl", "socket",
    "timed out waiting", "distbackenderror", "tcpstore", "recvvalue", "connectfullmesh",
)  # fmt: skip
"""Words of the transports when another process is gone."""


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
