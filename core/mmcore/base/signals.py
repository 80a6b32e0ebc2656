"""Signals that ask a run to finish its step and save; a second one ends it at once.

SIGTERM and SIGINT are the usual ones; schedulers send SIGUSR1 or SIGUSR2 before they end a job, a closed terminal sends
SIGHUP, Control-\\ SIGQUIT. One that was ignored before stays ignored, as under `nohup`. Checkpoints appear by a
rename, so ending at once at any moment leaves the previous ones whole.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def pending() -> int:
    """The signal that has asked this process to stop, or 0; what lasts asks between its parts."""
    return _open[-1].pending if _open else 0


class StopSignals:
    """While open, remembers the first signal in `pending` instead of ending the process."""

    def __init__(self) -> None:
        self.pending = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread is told of signals
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._remember) for number in heard}
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self in _open:
            _open.remove(self)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A data worker inherited this handler when it was forked. Its parent ends it with SIGTERM; what the
            # terminal sends reaches it too and is the parent's to answer.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.pending:
            os._exit(128 + number)
        self.pending = number


_open: list[StopSignals] = []
