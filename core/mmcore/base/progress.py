"""How far something is, on standard error: one line that is rewritten on a terminal, plain lines elsewhere."""

import sys
import time
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmcore.base.terminal import tell

if TYPE_CHECKING:
    from rich.console import Console

REDRAWN_S, REPEATED_S = 0.2, 10.0
"""Seconds between two states of a count: on a terminal, and as lines."""


class LiveLine:
    """The newest of many texts. Nested ones share the terminal.

    Args:
        show: False shows nothing, as on all processes but the first.
    """

    def __init__(self, *, show: bool = True) -> None:
        self.shown = show
        self.rewrites = show and sys.stderr is not None and sys.stderr.isatty()
        self._live: Any = None

    def update(self, text: str) -> None:
        """Put `text` in place of the last one; elsewhere than on a terminal, below it."""
        if not self.rewrites:
            if self.shown:
                tell(text)
            return
        if self._live is None:
            from rich.live import Live

            # No thread of its own draws: data workers are forked while it stands.
            self._live = Live("", console=_console(), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(text, refresh=True)

    def say(self, text: str) -> None:
        """Show a message that stays."""
        if self._live is not None:
            self._live.console.print(text, markup=False)
        elif self.shown:
            tell(text)

    def close(self) -> None:
        """Take the line away; plain lines stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Count:
    """So many of so many, with the rate and the time that is left.

    Args:
        label: what is done.
        unit: what is counted; without it shares are shown in percent.
        show: False shows nothing.
        quiet_s: nobody waits for less; nothing is shown before.
    """

    def __init__(self, label: str, unit: str = "", *, show: bool = True, quiet_s: float = 0.0) -> None:
        self.label, self.unit, self.quiet_s = label, unit, quiet_s
        self.said = False
        """Whether anything was shown."""
        self._line = LiveLine(show=show)
        self._began = self._last = time.monotonic()
        self._told = ""
        self._first: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, done: float, total: float = 1.0, label: str | None = None) -> None:
        """Tell how far it is: a line for every new label, and now and then in between."""
        now = time.monotonic()
        self.label = label or self.label
        self._first = done if self._first is None else self._first
        if not self._line.shown or now - self._began < self.quiet_s:
            return
        new = self.label != self._told and (label is not None or self._line.rewrites)
        if new or now - self._last >= (REDRAWN_S if self._line.rewrites else REPEATED_S):
            self._last, self._told, self.said = now, self.label, True
            self._line.update(self._text(done, total, now - self._began))

    def _text(self, done: float, total: float, seconds: float) -> str:
        if not self.unit:
            return f"{self.label}  {done / total:.0%}, {clock(seconds)}"
        rate = (done - (self._first or 0)) / max(seconds, 1e-9)
        left = f"{rate:.1f}/s, {clock((total - done) / rate)} left" if rate > 0 else "starting"
        return f"{self.label}  {done:,} of {total:,} {self.unit}, {left}"

    def close(self, last: str | None = None) -> None:
        """End; `last` is a message that stays, shown when anything was."""
        self._line.close()
        if last is not None and self.said:
            self._line.say(f"{last} after {time.monotonic() - self._began:.1f} s")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(59.6), clock(3723)
    ('1:00', '1:02:03')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@cache
def _console() -> "Console":
    """One for all lines, so that nested ones know of each other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
