"""A run's figures on an experiment tracker as well (`--track`): trackio, Weights & Biases or SwanLab.

All three share `init`, `log` and `finish`, and nothing else of them is used; none is a dependency. What a tracker does
wrong is told once, and training goes on without it.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmcore.base.files import replace_text
from mmcore.errors import UsageError

TRACKERS = ("trackio", "wandb", "swanlab")
FILE_NAME = "track.json"
PROJECT = "mmcore"


def check_installed(name: str) -> None:
    """Raise before anything is built when a tracker that was asked for is not there.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec(name) is None:
        raise UsageError(
            f"{name} is not installed", where=f"--track {name}", do=f"pip install {name}, or leave --track out"
        )


class Tracker:
    """One run on one tracker; goes on under its own id when the run is resumed.

    Args:
        name: one of `TRACKERS`.
        run_dir: keeps the id, and gives the run its name.
        config: the settings, plain values.
        say: is told what went wrong, once.
    """

    def __init__(self, name: str, run_dir: Path, config: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.name, self._say = name, say
        self._tracker: Any = None
        self._call(self._open, run_dir, config)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send figures of one step."""
        if self._tracker is not None:
            self._call(self._tracker.log, dict(values), step=step)

    def close(self) -> None:
        """Tell the tracker that this process is done."""
        if self._tracker is not None:
            self._call(self._tracker.finish)
            self._tracker = None

    def _open(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        tracker = import_module(self.name)
        found = _identity(run_dir, self.name)
        # trackio knows a run by its name, the others by an id of its own.
        own = {"name": found} if self.name == "trackio" else {"name": run_dir.resolve().name, "id": found}
        tracker.init(project=PROJECT, config=dict(config), resume="allow", **own)
        self._tracker = tracker

    def _call(self, function: Callable[..., object], *values: Any, **named: Any) -> None:
        try:
            function(*values, **named)
        except Exception as error:  # a tracker's network, login or version must never cost a run
            self._tracker = None
            self._say(f"{self.name} does not track this run any more: {type(error).__name__}: {error}")


def _identity(run_dir: Path, name: str) -> str:
    """The id under which the tracker knows this run: made at its first start, kept in the run folder."""
    path = run_dir / FILE_NAME
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    if not isinstance(known.get(name), str):
        label = "".join(c if c.isalnum() else "-" for c in run_dir.resolve().name)[:40]
        known[name] = f"{label}-{uuid.uuid4().hex[:8]}"
        replace_text(path, json.dumps(known, indent=2) + "\n")
    return known[name]
