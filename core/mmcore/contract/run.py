"""What a run is as data: the settings that decide it, and what `post_train` is given of a finished one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmcore.contract.recipe import Recipe, Stage

if TYPE_CHECKING:
    from mmcore.contract.model import Model


class Settings(Recipe):
    """One run, complete: the resolved stage and everything outside the recipe."""

    plugin: str
    extensions: tuple[str, ...] = ()
    variant: str
    stage: Stage
    data: str
    """Data root."""
    only: tuple[str, ...] | None = None
    """Sources named by --sources; None is all of them."""
    init: tuple[str, ...] = ()
    """Where the weights start: run folders, checkpoint files, Hub names, or "random"."""
    seed: int = 0
    demo: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 2
    log_every: int = 10
    tensorboard: bool = True
    """Write TensorBoard events beside `metrics.jsonl`."""
    quiet: bool = False
    """Show no progress; `log.txt` has it all the same."""
    max_steps: int | None = None
    """Stop after this many optimiser steps although the schedule goes on (--max-steps)."""
    track: Literal["trackio", "wandb", "swanlab"] | None = None
    """Experiment tracker that is told the figures as well (--track)."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What `post_train` is given: a finished run and its model with the final weights, on the CPU."""

    settings: Settings
    run_dir: Path
    model: "Model"
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
