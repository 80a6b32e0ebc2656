"""What may differ between the starts of one run, and what is compared before it goes on.

A resumed run is the run that was not interrupted, so nothing that decides its numbers can be changed on the way: seed,
model, mixture and schedule are the run folder's. What only decides where the data lies, how it is read, how often is
saved and what a fault does, can.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.contract.recipe import Stage
from mmcore.errors import DataError, UsageError, suggest
from mmcore.runs.config import resolve
from mmcore.runs.settings import RUN_NAME, Settings, read_starts
from mmcore.train.schedule import factor
from mmcore.train.stored import path_of, state_of, steps_of

CHANGEABLE = (
    "steps", "epochs", "skip_nonfinite", "loss_spikes", "checkpoint_every", "eval_every", "keep_last", "keep_every",
    "patience",
    "data.bad_samples", "data.max_bad_in_a_row", "data.max_pixels", "validation",
)  # fmt: skip
"""Recipe entries that a resume may replace with --set."""


_ONCE = ("workers", "device", "log_every", "max_steps", "quiet", "tensorboard", "track")
"""Settings that a resume changes for this start only."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What the command line of a resume asks to be otherwise; None leaves it."""

    data: Path | None = None
    sets: tuple[str, ...] = ()
    workers: int | None = None
    device: str | None = None
    log_every: int | None = None
    max_steps: int | None = None
    quiet: bool | None = None
    tensorboard: bool | None = None
    track: str | None = None
    allow_changed_data: bool = False

    def arguments(self) -> list[str]:
        """The same as a command line, for processes that are started for the run."""
        given: list[tuple[str, Any]] = [
            ("--data", self.data), ("--workers", self.workers), ("--device", self.device),
            ("--log-every", self.log_every), ("--max-steps", self.max_steps), ("--track", self.track),
            *(("--set", text) for text in self.sets),
        ]  # fmt: skip
        words = [word for name, value in given if value is not None for word in (name, str(value))]
        flags = {
            "--allow-changed-data": self.allow_changed_data, "--quiet": self.quiet,
            "--no-tensorboard": self.tensorboard is False,
        }  # fmt: skip
        return [*words, *(name for name, given in flags.items() if given)]


def changed(settings: Settings, changes: Changes) -> tuple[Settings, Settings]:
    """The settings of a run folder with what a resume may change, changed.

    Returns:
        Those of this start, and those that the run folder keeps: where the data lies and the recipe, but not how many
        workers read this time or after which step to stop.

    Raises:
        UsageError: a --set of a resume that would make another run of it.
    """
    for text in changes.sets:
        key = text.partition("=")[0].strip()
        if not any(key == one or key.startswith(f"{one}.") for one in CHANGEABLE):
            raise UsageError(
                f"--resume cannot change {key}: the run would not be the one that was interrupted",
                where=f"--set {text}",
                known=CHANGEABLE,
                do=suggest(key, CHANGEABLE, "start another run, with --init and this run's folder for its weights"),
            )
    stage, _ = resolve(settings.stage, None, changes.sets)
    kept = settings.replace(stage=stage)
    if changes.data is not None:
        kept = kept.replace(data=str(changes.data.expanduser().absolute()), demo=False)
    once = {key: getattr(changes, key) for key in _ONCE}
    return kept.replace(**{key: value for key, value in once.items() if value is not None}), kept


def compare_data(run_dir: Path, fingerprints: Mapping[str, str], *, allowed: bool) -> list[str]:
    """Whether the data is what the run was started with; `run.json` has its fingerprints.

    Returns:
        What differs, as sentences; only with `allowed` are there any.

    Raises:
        DataError: it differs.
    """
    starts = read_starts(run_dir)
    before = starts[-1].get("data") if starts else None
    if not isinstance(before, dict):
        return []
    differing = [
        f"source {name} has changed ({_short(before.get(name))} when the run began, now {_short(now)})"
        for name, now in fingerprints.items()
        if before.get(name) != now
    ]
    differing += [f"source {name} is gone" for name in before.keys() - fingerprints.keys()]
    if differing and not allowed:
        raise DataError(
            f"the data is not what this run was started with: {'; '.join(differing)}",
            where=run_dir / RUN_NAME,
            do="put the old data back, or go on with the new one by --allow-changed-data; the steps to come are then "
            "not those that the interrupted run would have made",
        )
    return differing


def compare_layout(run_dir: Path, processes: int, stage: Stage) -> str | None:
    """A sentence when a run goes on with another number of processes than it had, or None."""
    starts = read_starts(run_dir)
    before = starts[-1].get("processes") if starts else None
    if not isinstance(before, int) or before == processes:
        return None
    told = f"this run had {before} processes and goes on with {processes}: the same samples, sums in another order"
    if stage.normalise == "micro_batch":
        told += (
            "; with normalise: micro_batch losses are divided by the mean count of the processes that run beside one "
            "another, so that the objective itself is another one"
        )
    return "\n  ".join([told, *(note for note in stage.notes if "number of processes" in note)])


def compare_length(run_dir: Path, stage: Stage, steps: int, max_steps: int | None) -> list[str]:
    """What a resume does to the run's length and schedule, as sentences; a finished run says how it goes on.

    Args:
        run_dir: with a checkpoint.
        stage: the recipe of this start.
        steps: optimiser steps of the whole stage from now on.
        max_steps: step at which this start stops.

    Raises:
        UsageError: more steps than that are made.
    """
    try:
        state = state_of(path_of(run_dir, steps_of(run_dir)[-1]))
    except (OSError, ValueError):
        return []  # damaged; the loop looks for the last good one and says so
    done, before = int(state["position"]["step"]), int(state["steps"])
    if steps < done:
        raise UsageError(
            f"the run has made {done} steps and cannot end after {steps}",
            where="steps",
            do=f"give at least {done}, or start another run",
        )
    if steps != before:
        was, now = (factor(stage.schedule, done, total) for total in (before, steps))
        rate = (
            "the learning rate stays as it was"
            if was == now
            else f"the learning rate goes on at {now:g} of the base rate, where it was {was:g}, and follows the"
            f" {stage.schedule.kind} schedule over all {steps}"
        )
        return [f"the run was of {before} steps and is now of {steps}: {rate}"]
    if done == steps:
        return [f"the run is finished, all {steps} steps are made; `mmcore train --resume {run_dir} --steps N` goes on"]
    if max_steps is not None and max_steps <= done:
        more = f"`mmcore train --resume {run_dir} --max-steps N` goes on, up to step N"
        return [f"the run stands at step {done} of {steps}: --max-steps {max_steps} is reached; {more}"]
    return []


def _short(fingerprint: Any) -> str:
    return str(fingerprint)[:12] if fingerprint else "not there"


def refuse_other_options(given: Sequence[str]) -> None:
    """Options beside --resume that it would have to ignore.

    Raises:
        UsageError: there is one.
    """
    if given:
        raise UsageError(
            f"--resume takes {', '.join(given)} from the run folder",
            where="--resume",
            known="--data, --workers, --device, --nproc, --hostfile, --max-steps, --log-every, "
            "--quiet, --no-tensorboard, --track, --set of " + ", ".join(CHANGEABLE),
            do="leave it out, or start another run with another --out",
        )
