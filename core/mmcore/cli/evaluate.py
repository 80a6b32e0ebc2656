"""`mmcore eval`: a run against validation sets, by its family's published protocol."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mmcore.base.figures import LOSS, is_error, scale
from mmcore.cli.options import classes_option, read_classes

if TYPE_CHECKING:
    from mmcore.contract.recipe import Source, Stage, Validation
    from mmcore.runs.opened import OpenedModel
    from mmcore.runs.settings import Settings


@click.command("eval")
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.option("--on", "sources", metavar="A,B", help="Validation sets of the recipe. Default: all of them.")
@click.option(
    "--split",
    type=click.Choice(["val", "train"]),
    default="val",
    show_default=True,
    help="With train, --on names training sources: how well does the model know what it was trained on?",
)
@click.option("--data", type=click.Path(path_type=Path), help="Data root. Default: that of the run.")
@click.option(
    "--own",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Evaluate on the validation data that this file describes.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Replace one recipe entry; repeatable.")
@classes_option
@click.option("--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Of a run.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images of each set.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Records per forward pass. Default: the recipe's.")
@click.option("--workers", type=click.IntRange(min=0), help="Data worker processes. Default: that of the run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: RUN/evals.")
@click.option("--categories", is_flag=True, help="Also the AP of every category.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON, fractions between 0 and 1.")
def evaluate(
    target: str,
    sources: str | None,
    split: Literal["val", "train"],
    data: Path | None,
    own: Path | None,
    sets: tuple[str, ...],
    classes: str | None,
    checkpoint: str,
    limit: int | None,
    batch_size: int | None,
    workers: int | None,
    device: Literal["auto", "cpu", "cuda"],
    out: Path | None,
    categories: bool,
    as_json: bool,
) -> None:
    """Evaluate a run: a table of its family's metrics; predictions.json, metrics.json and pictures for each set.

    Under torchrun or srun the images are shared among the processes.
    """
    import json

    from mmcore.base import distributed
    from mmcore.runs import build
    from mmcore.runs.before import read_before
    from mmcore.runs.config import resolve
    from mmcore.runs.evaluation import Measuring
    from mmcore.runs.opened import open_model
    from mmcore.runs.pictures import STRIP_NAME

    check_read(sets)
    of_model = [entry for entry in sets if entry.startswith("model.")]
    opened = open_model(target, checkpoint=checkpoint, change=lambda stage: resolve(stage, None, of_model)[0])
    if own is not None:
        opened = _on_own(opened, own)
    settings = _adjusted(opened.settings, split, sources, data, sets, device, read_classes(classes))
    place = build.choose_device(settings)
    here = distributed.start(place)
    model = opened.model.to(place)
    if here.is_first:
        build.prepare_demo(opened.family, settings)
    distributed.barrier()
    datasets = build.build_datasets(opened.family, settings, "val")
    measuring = Measuring(opened.family, settings, datasets)
    root = out or (opened.run_dir / "evals" if opened.run_dir else Path("evals"))
    report: dict[str, Any] = {"target": target, "step": opened.step, "split": split, "sets": {}}
    try:
        for source in settings.stage.validation:
            name = f"{source}-step-{opened.step}" + (f"-first-{limit}" if limit else "")
            folder = _free(root, name)
            metrics = measuring.measure(
                model,
                source,
                folder=folder,
                picture=folder / STRIP_NAME,
                title=f"{source}, step {opened.step:,}: predicted and true",
                device=place,
                batch_size=batch_size,
                workers=settings.workers if workers is None else workers,
                limit=limit,
                policy=settings.stage.data.bad_samples,
            )
            if not here.is_first:
                continue
            report["sets"][source] = {
                **json.loads((folder / "metrics.json").read_text()),
                "folder": str(folder),
                "before": read_before(opened.run_dir).get(source, {}),
            }
            if not as_json:
                _show(source, metrics, report["sets"][source], categories)
    finally:
        distributed.stop()
    if as_json and here.is_first:
        click.echo(json.dumps(report, indent=1))


READ = ("validation", "data", "model", "max_length")
"""The entries of a recipe that an evaluation reads."""


def check_read(sets: Sequence[str]) -> None:
    """Refuse `--set` of what an evaluation does not read.

    Raises:
        UsageError: an entry is about training alone.
    """
    from mmcore.errors import UsageError

    for entry in sets:
        if entry.partition("=")[0].partition(".")[0].strip() not in READ:
            raise UsageError(
                f"an evaluation does not read {entry.partition('=')[0]}",
                where=f"--set {entry}",
                known=READ,
                do="leave it out; `mmcore train` reads the others",
            )


def _on_own(opened: "OpenedModel", own: Path) -> "OpenedModel":
    """The opened model with the data of an own-data file instead of the recipe's."""
    from dataclasses import replace

    from mmcore.data.formats.registry import Formats
    from mmcore.runs.own import with_own
    from mmcore.runs.settings import cache_folder

    family, settings = opened.family, opened.settings
    stage, notes = with_own(
        settings.stage, own, Formats.of(family.formats()), family.learns(), cache_folder(), family.family.judged
    )
    for note in notes:
        click.echo(note, err=True)
    changed = {"stage": stage, "data": str(own.expanduser().absolute().parent), "demo": False}
    return replace(opened, settings=settings.replace(**changed))


def _adjusted(
    settings: "Settings",
    split: str,
    sources: str | None,
    data: Path | None,
    sets: Sequence[str],
    device: str,
    classes: Mapping[str, str],
) -> "Settings":
    """The run's settings with the wanted validation sets only, and data root, device and recipe entries replaced."""
    from mmcore.runs.config import resolve

    stage, _ = resolve(settings.stage, None, sets)
    names = [name.strip() for name in (sources or "").split(",") if name.strip()]
    wanted = wanted_sets(stage, split, names)
    if classes:
        wanted = {name: entry.replace(classes=dict(classes)) for name, entry in wanted.items()}
    stage = stage.replace(validation=wanted)
    changes: dict[str, Any] = {"stage": stage, "only": None, "device": device}
    if data is not None:
        changes |= {"data": str(data.expanduser().absolute()), "demo": False}
    return settings.replace(**changes)


def wanted_sets(stage: "Stage", split: str, names: Sequence[str]) -> "dict[str, Validation]":
    """The validation sets named by --on; with --split train, training sources as if they were such sets.

    Raises:
        UsageError: the recipe has no such set, or none at all.
    """
    from mmcore.errors import UsageError, suggest

    known: Mapping[str, Validation] = (
        stage.validation
        if split == "val"
        else {name: as_validation(source) for name, source in stage.data.sources.items()}
    )
    if split == "train" and not names:
        raise UsageError("--split train needs --on", known=known, do="name training sources with --on")
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no {'validation set' if split == 'val' else 'training source'} {name!r}",
                where=f"--on {','.join(names)}",
                known=known or "none",
                do=suggest(name, known, "choose among these, or see `mmcore plan`"),
            )
    if not known:
        raise UsageError("the recipe has no validation set", where=f"stage {stage.number} {stage.name}")
    return {name: known[name] for name in (names or known)}


def as_validation(source: "Source") -> "Validation":
    """A training source as a validation set: the same files, whole and without augmentation."""
    from mmcore.contract.recipe import DATA_FIELDS, Validation

    return Validation(**{key: getattr(source, key) for key in DATA_FIELDS})


def _free(root: Path, name: str) -> Path:
    """`root/name`, or the first of `name-2`, `name-3`, ... that does not exist."""
    number, folder = 1, root / name
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def _digits(metric: str) -> int:
    """Behind the point: of percent one, of a loss three."""
    return 3 if is_error(metric) else 1


def _show(source: str, metrics: Mapping[str, float], record: Mapping[str, Any], categories: bool) -> None:
    """Metrics in percent, as papers print them: one table row for boxes, one for masks."""
    from rich.console import Console
    from rich.table import Table

    kinds: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        kind, _, metric = name.rpartition("/")
        kinds.setdefault(kind, {})[metric] = value
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to wrap at
        console.width = 200
    seen = f"{record['images']} images"
    if record.get("frames"):
        seen = f"{record['images']} videos of {record['frames']} frames"
    if record["records"] != record["images"]:
        seen = f"{record['records']} records, {seen}"
    console.print(f"[bold]{source}[/bold]  {seen}, {record['seconds']:.0f} s, percent")
    if record["left_out"]:
        told = (
            f"  incomplete: {len(record['left_out'])} records are left out, so this is not the figure of the whole set"
        )
        console.print(told, highlight=False)
    if not any(name != LOSS for name in metrics):
        console.print("  no metric is defined: these images have no objects to find, or only crowds", highlight=False)
    for kind, values in kinds.items():
        table = Table(show_edge=False, pad_edge=False, box=None)
        table.add_column(kind or "all", style="bold")
        for metric in values:
            table.add_column(metric, justify="right")
        table.add_row("", *(f"{scale(metric) * value:.{_digits(metric)}f}" for metric, value in values.items()))
        prefix = f"{kind}/" if kind else ""
        before = [record["before"].get(f"{prefix}{metric}") for metric in values]
        if any(value is not None for value in before):
            change = [None if old is None else new - old for old, new in zip(before, values.values(), strict=True)]
            for row, found, sign in (("at the start", before, ""), ("change", change, "+")):
                cells = zip(values, found, strict=True)
                table.add_row(row, *("" if v is None else f"{scale(m) * v:{sign}.{_digits(m)}f}" for m, v in cells))
        console.print(table)
    if categories:
        for kind, values in record["categories"].items():
            for category, value in sorted(values.items(), key=lambda item: -item[1]):
                console.print(f"  {kind} {100 * value:5.1f}  {category}", highlight=False, markup=False)
    console.print(f"  -> {record['folder']}", highlight=False, markup=False, soft_wrap=True)
