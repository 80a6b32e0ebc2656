"""A start that fails leaves nothing behind: what it wrote before everything it needs was open is removed again.

From then on the folder is a run: its configuration lies there, and why it fails stands in its log.
"""

import contextlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mmcore.base.lock import LOCK_NAME
from mmcore.runs.settings import CONFIG_NAME, RUN_NAME
from mmcore.train.metrics import LOG_NAME, METRICS_NAME


class Start:
    """A start on its way.

    Args:
        run_dir: the folder that it wants to have.
        handed_over: name of the file through which a launcher gave its settings to this process; None in the process
            that was asked for the run.
    """

    def __init__(self, run_dir: Path, handed_over: str | None = None) -> None:
        self._run_dir = run_dir
        self._made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
        self.handed_over = handed_over or f".starting-{os.getpid()}.yaml"
        names = (self.handed_over, LOCK_NAME, CONFIG_NAME, RUN_NAME, LOG_NAME)
        self._new = [name for name in names if not (run_dir / name).exists()]
        self.stands = False

    def stand(self) -> None:
        """Everything is open and the run's configuration is written: from now on the folder is a run."""
        (self._run_dir / self.handed_over).unlink(missing_ok=True)
        self.stands = True

    def undo(self) -> None:
        """Remove what this start made; the folder itself only if it was not there before."""
        if self._run_dir in self._made:
            shutil.rmtree(self._run_dir, ignore_errors=True)
        for name in self._new:
            with contextlib.suppress(OSError):
                (self._run_dir / name).unlink()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextmanager
def begun(run_dir: Path, handed_over: str | None = None) -> Generator[Start, None, None]:
    """The start of a new run, see `Start`; undone when it fails before it stands."""
    start = Start(run_dir, handed_over)
    try:
        yield start
    except BaseException:
        if not start.stands:
            start.undo()
        raise


def forget_former(run_dir: Path) -> None:
    """Remove the records of a start that never came to a checkpoint: the folder is another run's now."""
    from mmcore.data.bad import FILE_NAME as BAD_SAMPLES_NAME

    for name in (RUN_NAME, METRICS_NAME, BAD_SAMPLES_NAME):
        (run_dir / name).unlink(missing_ok=True)
