"""`mmcore data`: make sample data, check data, draw what the network sees, build indexes and caches ahead."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcore.base import collector
from mmcore.cli.cache import cache
from mmcore.cli.options import recipe_options, request_from

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets
    from mmcore.data.check import Problem
    from mmcore.runs.plugin import OpenedPlugin
    from mmcore.runs.settings import Settings

_SHOWN = 20
"""Problems per source that are printed; --json has all."""


@click.group()
def data() -> None:
    """Make sample data; convert, check, draw, index and cache data."""
    collector.work()  # they go through samples at once


data.add_command(cache)


@data.command()
@click.argument("root", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train", default=400, show_default=True, type=click.IntRange(min=1), help="Training scenes.")
@click.option("--val", default=40, show_default=True, type=click.IntRange(min=1), help="Held-back scenes.")
@click.option("--seed", default=0, show_default=True, help="Decides every scene.")
def sample(root: Path, train: int, val: int, seed: int) -> None:
    """Write sample data in the real on-disk formats to ROOT."""
    from mmcore.data.demo.write import write_demo
    from mmcore.plugins import installed

    write_demo(root, seed=seed, train=train, val=val)
    click.echo(f"{train} training and {val} validation scenes in {root}")
    names = ", ".join(installed()) or "none yet"
    click.echo(f"next: mmcore train --plugin NAME --stage NUMBER --variant tiny --data {root} (plugins: {names})")


@data.command("formats")
@click.option("--plugin", metavar="NAME", help="Which of them this family learns, and those it brings itself.")
@click.option("--with", "extensions", multiple=True, metavar="NAME", help="An extension plugin; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_formats(plugin: str | None, extensions: tuple[str, ...], as_json: bool) -> None:
    """List the annotation formats: what their records can teach, their files and their options."""
    import json

    from mmcore.cli.formats import rows, table
    from mmcore.data.formats.registry import Formats
    from mmcore.runs.plugin import OpenedPlugin

    brought = OpenedPlugin.open(plugin, extensions).formats() if plugin else ()
    found = rows(Formats.of(brought))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table(found))


@data.command()
@recipe_options
@click.option("--split", type=click.Choice(["train", "val", "both"]), default="both", show_default=True)
@click.option("--quick", is_flag=True, help="Annotations only; do not read images.")
@click.option("--limit", type=click.IntRange(min=1), help="Read only so many images per source, spread evenly.")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that read. Default: the processor's cores, at most 8."
)
@click.option("--json", "as_json", is_flag=True, help="Print every problem as JSON.")
def check(split: str, quick: bool, limit: int | None, workers: int | None, as_json: bool, **values: Any) -> None:
    """Look for everything that is wrong: file, record and field. Exit code 1 when something is."""
    import json
    import os

    from mmcore.errors import DataError

    family, settings = _settle(values)
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    found: dict[str, dict[str, Any]] = {}
    for part, name in _sources(family, settings, split):
        problems, records, read = _check_one(family, settings, part, name, quick, limit, workers)
        listed = [problem._asdict() for problem in problems]
        found[f"{part}/{name}"] = {"records": records, "problems": listed, "read_anyway": read}
        if not as_json:
            _print_problems(f"{part} {name}", records, problems, read)
    total = sum(len(entry["problems"]) for entry in found.values())
    if as_json:
        click.echo(json.dumps({"ok": total == 0, "num_problems": total, "sources": found}, indent=1))
    if total:
        bad = sum(bool(entry["problems"]) for entry in found.values())
        raise DataError(
            f"{total} problem{'s' if total > 1 else ''} in {bad} of {len(found)} sources",
            where=settings.data,
            do="repair or fetch these files; a run skips single bad samples unless --set data.bad_samples=error",
        )


@data.command()
@recipe_options
@click.option("--count", default=12, show_default=True, type=click.IntRange(min=1), help="Samples to draw.")
@click.option(
    "--step", default=0, show_default=True, type=click.IntRange(min=0), help="First micro-batch of the order."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("data-show"), show_default=True)
def show(count: int, step: int, out: Path, **values: Any) -> None:
    """Draw samples exactly as the network sees them, in the order of training, after augmentation and padding."""
    from mmcore.data.loader import Loader
    from mmcore.runs.build import build_datasets, build_order
    from mmcore.show.batch import draw_batch
    from mmcore.show.marks import contact_sheet

    family, settings = _settle(values)
    datasets = build_datasets(family, settings, "train")
    loader = Loader(datasets, build_order(settings, datasets), num_workers=0, policy="error", pin_memory=False)
    pictures: list[tuple[str, Any]] = []
    for m, batch in loader.iterate(step, step + count):
        drawn = draw_batch(batch, datasets.collate[batch.source])
        pictures += [(f"{m:06d}-{row}-{batch.source}", picture) for row, picture in enumerate(drawn)]
        if len(pictures) >= count:
            break
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures[:count]:
        picture.save(out / f"{name}.png")
    sheet = contact_sheet([picture for _, picture in pictures[:count]], titles=[name for name, _ in pictures[:count]])
    sheet.save(out / "sheet.png")
    click.echo(f"{min(count, len(pictures))} samples in {out}, all on {out / 'sheet.png'}")


@data.command()
@click.argument("kind")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--expressions", type=click.Path(path_type=Path), help="Of masks: meta_expressions.json.")
@click.option("--images", type=click.Path(path_type=Path), help="Of expressions: the folder of frames.")
def convert(kind: str, source: Path, out: Path, **given: Path | None) -> None:
    """Write a published annotation SOURCE in a form that is read here to OUT, which must not exist.

    \b
    KIND is
      frames       videos in YouTube-VIS's form: single frames, in COCO's (with expressions RefCOCO's)
      tao          TAO's own file: videos with boxes
      burst        BURST's own file: videos with masks
      masks        folder Annotations of DAVIS, YouTube-VOS or MOSE; --expressions for Ref-YouTube-VOS
      expressions  meta_expressions.json without things: videos to be asked, with --images
      mot          folder of MOTChallenge's sequences
      bdd-boxes    BDD100K's labels: a file of pictures, or a folder of videos
      bdd-masks    BDD100K's bitmasks of a split
    """
    import json
    from collections import Counter

    from mmcore.base.files import replace_text
    from mmcore.data.convert.kinds import KINDS
    from mmcore.errors import CheckpointError, DataError, UsageError, suggest

    if kind not in KINDS:
        raise UsageError(
            f"there is no conversion {kind!r}", known=KINDS, do=suggest(kind, KINDS, "choose one of these")
        )
    chosen = KINDS[kind]
    options = {name: path for name, path in given.items() if path is not None}
    for name in options:
        if name != chosen.takes:
            raise UsageError(f"{kind} takes no --{name}", where=f"--{name}")
    if chosen.needed and not options:
        raise UsageError(f"{kind} needs --{chosen.takes}", where=f"mmcore data convert {kind}")
    if out.exists():
        raise CheckpointError("it exists already", where=out, do="name another OUT")
    left_out: Counter[str] = Counter()
    try:
        content = chosen.make(source, left_out, **options)
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # a value of another kind than published
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"this is not what {kind!r} converts ({told:.120})", where=source, do="see --help") from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(out, json.dumps(content) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error.strerror}", do="choose another OUT") from None
    counts = {key: len(value) for key, value in content.items()}
    click.echo(f"{out}: {', '.join(f'{count} {key}' for key, count in counts.items())}")
    for reason, count in left_out.most_common():
        if count:
            click.echo(f"  left out: {count} {reason}")


@data.command()
@recipe_options
@click.option("--split", type=click.Choice(["train", "val", "both"]), default="both", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def index(split: str, as_json: bool, **values: Any) -> None:
    """Build the annotation indexes ahead, so that a run starts at once."""
    import json
    import time

    family, settings = _settle(values)
    built: dict[str, dict[str, Any]] = {}
    for part, name in _sources(family, settings, split):
        begin = time.perf_counter()
        source = _build(family, settings, part, name).sources[name]
        annotations = source.annotations()
        folder = annotations.index.folder if annotations is not None else None
        built[f"{part}/{name}"] = {
            "records": len(source),
            "seconds": round(time.perf_counter() - begin, 3),
            "fingerprint": source.fingerprint,
            "folder": str(folder) if folder else None,
        }
        if not as_json:
            click.echo(
                f"{part} {name}: {len(source)} records, {built[f'{part}/{name}']['seconds']:.1f} s, {folder or ''}"
            )
    if as_json:
        click.echo(json.dumps(built, indent=1))


def _settle(values: dict[str, Any]) -> "tuple[OpenedPlugin, Settings]":
    from mmcore.runs.build import data_context, prepare_demo
    from mmcore.runs.settings import settle

    family, settings, _ = settle(request_from(values))
    prepare_demo(family, settings)
    data_context(settings)  # without a data folder there is nothing to look at
    return family, settings


def _sources(family: "OpenedPlugin", settings: "Settings", split: str) -> list[tuple[str, str]]:
    """Split and name of every source to look at; with --sources, the validation sets that a run of these would use."""
    from mmcore.runs.settings import active_sources

    train = [("train", name) for name in active_sources(settings)] if split != "val" else []
    if split == "train" or not settings.stage.validation:
        return train
    names = list(settings.stage.validation)
    if settings.only:
        names = [name for name in names if _is_asked(family, settings, name)]
    return train + [("val", name) for name in names]


def _is_asked(family: "OpenedPlugin", settings: "Settings", name: str) -> bool:
    """Whether a run of the chosen sources would use a validation set; one that cannot be opened is."""
    from mmcore.errors import DataError
    from mmcore.runs.build import build_datasets

    alone = settings.stage.replace(validation={name: settings.stage.validation[name]}, best_metric=None)
    try:
        return name in build_datasets(family, settings.replace(stage=alone), "val").sources
    except DataError:  # told when the set is looked at alone
        return True


def _build(family: "OpenedPlugin", settings: "Settings", split: str, name: str) -> "Datasets":
    """The datasets of one source alone, so that a missing one does not hide the others."""
    from mmcore.runs.build import build_datasets

    return build_datasets(family, settings.replace(only=(name,)), split)


def _check_one(
    family: "OpenedPlugin", settings: "Settings", split: str, name: str, quick: bool, limit: int | None, workers: int
) -> "tuple[list[Problem], int, str | None]":
    """The problems of one source, its number of records, and what was read although it is written in its own way."""
    from mmcore.base.progress import Count
    from mmcore.data.check import Problem, check_annotations, check_samples
    from mmcore.data.records import told_read_anyway
    from mmcore.errors import DataError

    try:
        source = _build(family, settings, split, name).sources[name]
    except DataError as error:
        return [Problem.of(name, error)], 0, None
    problems = list(check_annotations(name, source))
    if not quick:
        with Count(f"{split} {name}", "records", quiet_s=0.5) as line:
            problems += check_samples(name, source, limit=limit, workers=workers, report=line)
    return problems, len(source), told_read_anyway(source)


def _print_problems(title: str, records: int, problems: "list[Problem]", read: str | None) -> None:
    click.echo(f"{title}: {records} records, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if read:
        click.echo(f"  {read}")
    for problem in problems[:_SHOWN]:
        click.echo(f"  {problem.what}\n    where: {problem.where}")
        if problem.do:
            click.echo(f"    do:    {problem.do}")
    if len(problems) > _SHOWN:
        click.echo(f"  ... and {len(problems) - _SHOWN} more; --json prints all")
