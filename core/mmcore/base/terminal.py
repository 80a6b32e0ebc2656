"""What is shown to a person: it may get lost, and never stops what it tells about.

A terminal closes, `| head` has read enough, the disk behind `2> file` is full: a run goes on, and what it said stands
in its log.
"""

import contextlib
import sys
from typing import Any


class Forgiving:
    """A text stream that swallows its own failures; everything else is the stream it wraps."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(self._stream.isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect() -> None:
    """Make standard error forgiving, and let standard output write whatever its encoding lacks as escapes."""
    if sys.stderr is not None and not isinstance(sys.stderr, Forgiving):
        sys.stderr = Forgiving(sys.stderr)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def tell(text: str) -> None:
    """Show a line on standard error, if there is one."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
