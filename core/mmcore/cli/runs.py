"""`mmcore runs`: what runs there are, and how far each is."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mmcore.base.figures import written
from mmcore.base.lock import holder
from mmcore.errors import MmcoreError
from mmcore.runs.settings import CONFIG_NAME, read_settings
from mmcore.train.metrics import METRICS_NAME, read
from mmcore.train.stored import named, path_of, state_of, steps_of


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run folder at a glance."""

    name: str
    folder: str
    plugin: str
    stage: str
    variant: str
    state: str
    """running, finished, ended early (by patience), stopped (to be resumed), empty or unreadable."""
    step: int
    steps: int | None
    """Of the whole schedule; None before the first checkpoint of a run counted in epochs."""
    loss: float | None
    metrics: Mapping[str, float]
    """Of the last evaluation."""
    checkpoints: tuple[int, ...]
    best: int | None


def summarise(run_dir: Path) -> RunSummary:
    """Look into a run folder; nothing is verified, so it is quick.

    Raises:
        CheckpointError: it is not a run folder.
    """
    settings = read_settings(run_dir)
    records = read(run_dir / METRICS_NAME)
    losses = [record for record in records if "total" in record]
    evaluations = [record["eval"] for record in records if isinstance(record.get("eval"), dict)]
    saved = _saved(run_dir)
    return RunSummary(
        name=run_dir.name,
        folder=str(run_dir),
        plugin=settings.plugin,
        stage=f"{settings.stage.number} {settings.stage.name}",
        variant=settings.variant,
        state=_state(run_dir, saved, records),
        step=max((record["step"] for record in records), default=0),
        steps=saved.get("steps", settings.stage.steps),
        loss=losses[-1]["total"] if losses else None,
        metrics=evaluations[-1] if evaluations else {},
        checkpoints=tuple(steps_of(run_dir)),
        best=named(run_dir, "best"),
    )


def _saved(run_dir: Path) -> dict[str, Any]:
    steps = steps_of(run_dir)
    try:
        return state_of(path_of(run_dir, steps[-1])) if steps else {}
    except (OSError, ValueError):
        return {}  # damaged; resuming will say so


def _state(run_dir: Path, saved: Mapping[str, Any], records: list[dict[str, Any]]) -> str:
    process = holder(run_dir)
    if process is not None:
        return f"running (process {process})"
    if saved.get("finished"):
        return "finished"
    if records and "ended" in records[-1]:
        return "ended early"
    return "stopped" if saved or records else "empty"


def find_runs(folder: Path) -> list[Path]:
    """Run folders in `folder`, or it itself, in order of name."""
    if (folder / CONFIG_NAME).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="runs")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def runs(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER: family, stage, step, loss and state."""
    summaries, unreadable = [], []
    for path in find_runs(folder):
        try:
            summaries.append(summarise(path))
        except MmcoreError as error:
            unreadable.append((path, error.what))
    if as_json:
        failed = [
            {"name": path.name, "folder": str(path), "state": "unreadable", "problem": p} for path, p in unreadable
        ]
        click.echo(json.dumps([*map(asdict, summaries), *failed], indent=2))
        return
    if not summaries and not unreadable:
        click.echo(f"no runs in {folder}; `mmcore train --plugin NAME --stage STAGE --demo` makes one")
        return
    _table(summaries)
    for path, what in unreadable:
        click.echo(f"{path.name}: unreadable: {what}")


def _table(summaries: list[RunSummary]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "plugin", "stage", "variant", "step", "loss", "last evaluation", "state", box=None)
    for run in summaries:
        step = f"{run.step:,}" + (f"/{run.steps:,}" if run.steps else "")
        loss = "-" if run.loss is None else f"{run.loss:.4g}"
        table.add_row(run.name, run.plugin, run.stage, run.variant, step, loss, _metrics(run.metrics, 2), run.state)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _metrics(metrics: Mapping[str, float], most: int) -> str:
    return ", ".join(f"{name} {written(name, value)}" for name, value in list(metrics.items())[:most]) or "-"
