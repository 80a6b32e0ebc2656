"""A run's weights written for others when it is complete, for the hook `post_train`."""

import sys
from pathlib import Path

from mmcore.contract.run import FinishedRun
from mmcore.errors import MmcoreError
from mmcore.runs.export import export
from mmcore.runs.opened import OpenedModel
from mmcore.runs.plugin import OpenedPlugin


def export_after(run: FinishedRun, format: str, told: str, precision: str | None = None) -> None:
    """Write a run's weights into its folder `exports` and say where they lie; a run never fails over it.

    Args:
        run: that has just ended.
        format: see `mmcore.runs.export.export`.
        told: what it was exported for, before the folder's name.
        precision: see there.
    """
    try:
        say(f"{told}: {_export(run, format, precision)}")
    except (MmcoreError, OSError) as error:
        again = f"mmcore export {run.run_dir} --format {format}"
        say(f"the run is complete, but its export failed: {error}\n  again: {again}")


def _export(run: FinishedRun, format: str, precision: str | None) -> Path:
    """The folder; a run that went on after an export has another one, by its step."""
    place = run.run_dir / "exports" / format
    if place.exists() and any(place.iterdir()):
        place = place.with_name(f"{format}-step-{run.step:08d}")
    if place.exists() and any(place.iterdir()):
        return place
    family = OpenedPlugin.open(run.settings.plugin)
    opened = OpenedModel(run.model, run.settings, family, run.run_dir, run.step, str(run.run_dir))
    export(opened, format, place, precision=precision)
    return place


def say(text: str) -> None:
    """A line for people, beside the run's own output."""
    print(text, file=sys.stderr, flush=True)
