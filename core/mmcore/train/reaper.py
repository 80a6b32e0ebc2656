"""A program of its own: ends the processes of a launcher that is gone, however it went.

Its standard input is a pipe that the launcher holds open. A word on it, and all is well; its end without a word, and
the launcher was killed: every process group named on the command line is asked to save and stop, and after the grace
period ended by force. Imports nothing of mmcore, so that it is there at once.

    python reaper.py GRACE_S GROUP...
"""

import contextlib
import os
import signal
import sys
import time


def main(grace_s: float, groups: list[int]) -> None:
    """Wait for the launcher; then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    send(groups, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(map(there, groups)):
        time.sleep(0.05)
    send(groups, signal.SIGKILL)


def send(groups: list[int], number: int) -> None:
    """A signal to the first process of every group, or by force to all of each."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if number == signal.SIGKILL else os.kill)(group, number)


def there(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(float(sys.argv[1]), [int(group) for group in sys.argv[2:]])
