"""What a launcher of several machines says, passed on line by line, so that the machine that failed first is known.

pdsh writes the machine's name before every line, and DeepSpeed's launcher on that machine tells when a process of it
ends badly; the others lose their connection and say so later.
"""

import re
import sys
import threading
from subprocess import Popen
from typing import IO, NamedTuple

_ENDED = re.compile(rb"^(?:(?P<host>\S+): )?.*exits with return code = (?P<code>-?\d+)")


class Ended(NamedTuple):
    """A machine on which a process of the run ended badly."""

    host: str
    code: int
    """Of the process; negative for a signal."""


class Heard:
    """Passes on what a process says on both its pipes.

    Args:
        process: started with `stdout` and `stderr` as pipes.
    """

    def __init__(self, process: "Popen[bytes]") -> None:
        self.first: Ended | None = None
        """The first machine that was said to have failed."""
        pipes = (process.stdout, sys.stdout), (process.stderr, sys.stderr)
        self._threads = [threading.Thread(target=self._pass_on, args=pair, daemon=True) for pair in pipes]
        for thread in self._threads:
            thread.start()

    def finish(self) -> Ended | None:
        """Wait for the last words; the first machine that failed, if any was named."""
        for thread in self._threads:
            thread.join(timeout=5)
        return self.first

    def _pass_on(self, pipe: IO[bytes], to: IO[str]) -> None:
        with pipe:
            for line in pipe:
                to.write(line.decode(errors="replace"))
                to.flush()
                if self.first is None and (found := _ENDED.match(line)) and found["host"]:
                    self.first = Ended(found["host"].decode(errors="replace"), int(found["code"]))
