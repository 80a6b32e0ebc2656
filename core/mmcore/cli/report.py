"""`mmcore report`: how a run went, in a picture and figures; several runs over one another."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mmcore.base.figures import is_error, written
from mmcore.cli.runs import RunSummary, summarise
from mmcore.errors import CheckpointError
from mmcore.train.metrics import METRICS_NAME, read


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture. Default: RUN/curves.png, of several ./comparison.png.",
)
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Every logged number as a table.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def report(runs: tuple[Path, ...], out: Path | None, csv: Path | None, as_json: bool) -> None:
    """Draw the curves of RUN as a PNG and say how it went; of several RUNs what differs and their curves together."""
    from mmcore.show.table import write_csv

    runs = tuple(dict.fromkeys(runs))
    summaries = [summarise(run) for run in runs]
    for run in runs:
        if not any("total" in record for record in read(run / METRICS_NAME)):
            raise CheckpointError(
                "no step has been logged yet", where=run / METRICS_NAME, do="wait for the first log line"
            )
    if csv is not None:
        write_csv(csv, {name: run / METRICS_NAME for name, run in zip(labels(runs), runs, strict=True)})
    if len(runs) == 1:
        _one(runs[0], summaries[0], out, as_json)
    else:
        _several(runs, summaries, out, as_json)
    if csv is not None and not as_json:
        click.echo(f"  table {csv}")


def labels(runs: tuple[Path, ...]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [run.absolute().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == len(found):
            return found
    return [str(run) for run in runs]


def _one(run: Path, summary: RunSummary, out: Path | None, as_json: bool) -> None:
    from mmcore.runs.pictures import draw_over_time, strips_of
    from mmcore.show.plots import plot_curves

    picture = plot_curves(run, output=out)
    strips = draw_over_time(run)
    newest = [paths[-1][1] for paths in strips_of(run).values() if paths]
    records = [record for record in read(run / METRICS_NAME) if "total" in record]
    first, last = records[0], records[-1]
    figures: dict[str, Any] = {
        "curves": str(picture),
        "first": {"step": first["step"], "loss": first["total"]},
        "last": {"step": last["step"], "loss": last["total"]},
        "samples": last.get("samples"),
        "skipped": last.get("skipped", 0),
        "timing": last.get("timing", {}),
        "before": _before(run),
        "strips": [str(path) for path in strips],
        "newest_strips": [str(path) for path in newest],
    }
    if as_json:
        click.echo(json.dumps({**asdict(summary), **figures}, indent=2))
        return
    click.echo(f"{summary.name}: {summary.plugin} {summary.variant}, stage {summary.stage}, {summary.state}")
    of = f" of {summary.steps:,}" if summary.steps else ""
    click.echo(f"  step {summary.step:,}{of}, {figures['samples'] or 0:,} samples, {figures['skipped']} steps skipped")
    click.echo(
        f"  loss {_number(first['total'])} at step {first['step']}, {_number(last['total'])} at step {last['step']}"
    )
    before = _before(run)
    for name, value in summary.metrics.items():
        click.echo(f"  {name} {written(name, value)}" + _since(name, value, before))
    kept = ", ".join(map(str, summary.checkpoints)) or "none"
    click.echo(f"  checkpoints {kept}" + (f", best {summary.best}" if summary.best is not None else ""))
    click.echo(f"  curves {picture}")
    for path in strips:
        click.echo(f"  predictions over time {path}")
    for path in newest:
        click.echo(f"  newest predictions, all pictures of the strip {path}")
    for path in sorted((run / "evals").glob("*/*.png")):
        click.echo(f"  {path.stem} {path}")


def _before(run: Path) -> dict[str, float]:
    """What the starting weights reached, named as the metrics of an evaluation are."""
    from mmcore.runs.before import read_before

    return {f"{source}/{name}": value for source, found in read_before(run).items() for name, value in found.items()}


def _since(name: str, value: float | None, before: Mapping[str, float]) -> str:
    """How a metric has changed since the start, where that was measured."""
    old = before.get(name)
    if old is None or value is None:
        return ""
    change = f"{value - old:+.4g}" if is_error(name) else f"{100 * (value - old):+.1f}"
    return f" (at the start {written(name, old)}, {change})"


def _several(runs: tuple[Path, ...], summaries: list[RunSummary], out: Path | None, as_json: bool) -> None:
    from mmcore.runs.compare import differences
    from mmcore.show.plots import plot_comparison

    names = labels(runs)
    differing = differences(runs)
    picture = plot_comparison(dict(zip(names, runs, strict=True)), out or Path("comparison.png"))
    if as_json:
        listed = [{"label": name, **asdict(summary)} for name, summary in zip(names, summaries, strict=True)]
        click.echo(json.dumps({"runs": listed, "differences": differing, "curves": str(picture)}, indent=2))
        return
    rows: list[tuple[str, list[str]]] = [
        ("state", [summary.state for summary in summaries]),
        ("step", [f"{summary.step:,}" + (f"/{summary.steps:,}" if summary.steps else "") for summary in summaries]),
        ("loss", [_number(summary.loss) for summary in summaries]),
    ]
    for metric in dict.fromkeys(name for summary in summaries for name in summary.metrics):
        rows.append((metric, [_written(metric, s.metrics.get(metric)) for s in summaries]))
    before = [_before(run) for run in runs]
    for metric in dict.fromkeys(name for found in before for name in found):
        rows.append((f"{metric} at the start", [_written(metric, found.get(metric)) for found in before]))
    rows += [(key, [_short(value) for value in values]) for key, values in differing.items()]
    _print_table(names, rows, num_results=len(rows) - len(differing))
    if not differing:
        click.echo("the settings are equal")
    click.echo(f"curves {picture}")


def _print_table(names: list[str], rows: list[tuple[str, list[str]]], *, num_results: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *names, box=None)
    for number, (name, values) in enumerate(rows):
        table.add_row(name, *values, end_section=number == num_results - 1)
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to wrap at
        console.width = 200
    console.print(table)


def _short(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _written(metric: str, value: float | None) -> str:
    return "-" if value is None else written(metric, value)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
