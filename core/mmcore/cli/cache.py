"""`mmcore data cache`: compute once what frozen networks say of every image, so that training need not run them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcore.base.progress import Count
from mmcore.cli.options import recipe_options, request_from

if TYPE_CHECKING:
    from mmcore.data.cache.features import CacheJob
    from mmcore.data.cache.survey import Survey
    from mmcore.runs.plugin import OpenedPlugin
    from mmcore.runs.settings import Settings

_SHOWN = 20
"""Problems that are printed; --json has all."""


@click.command()
@recipe_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: below $MMCORE_CACHE.")
@click.option("--dtype", type=click.Choice(["fp16", "fp32"]), help="Precision on disk. Default: the recipe's.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1), help="Images per call.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that read images. Default: as for training.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@click.option("--check", is_flag=True, help="Verify checksums, index, networks and images; exit code 1 on a problem.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def cache(
    out: Path | None, dtype: str | None, batch: int, dry_run: bool, check: bool, as_json: bool, **values: Any
) -> None:
    """Write what frozen networks say of every image of a stage to disk, once; run it again to resume or extend."""
    import json

    from mmcore.data.cache.fill import fill
    from mmcore.data.cache.survey import refuse_full, survey
    from mmcore.runs.build import choose_device, data_context, prepare_demo
    from mmcore.runs.settings import settle

    family, settings, _ = settle(request_from(values))
    prepare_demo(family, settings)
    job = _job(family, settings, data_context(settings), dtype)
    folder = out or job.folder
    if check:
        _check(job, folder, as_json)
        return
    told: dict[str, Any] = {}

    def tell(found: "Survey") -> None:
        told.update(_told(job, folder, found))
        if not as_json:
            click.echo(_sentence(found, folder))

    if dry_run:
        found = survey(job, folder)
        tell(found)
        refuse_full(found, folder)
    else:
        line = Count("made", "images")
        filled = fill(
            job,
            folder,
            device=choose_device(settings),
            batch=batch,
            workers=settings.workers,
            stop_at_bad=settings.stage.data.bad_samples == "error",
            tell=tell,
            report=line,
        )
        line.close()
        told |= filled._asdict()
        if not as_json:
            _say_done(filled, folder, told["bad"])
    if as_json:
        click.echo(json.dumps(told, indent=1))


def _job(family: "OpenedPlugin", settings: "Settings", context: Any, dtype: str | None) -> "CacheJob":
    """What the family wants to have cached for this stage.

    Raises:
        PluginError: it caches nothing.
    """
    from mmcore.errors import PluginError

    job = family.call("data_cache", stage=settings.stage, context=context, dtype=dtype)
    if job is None:
        raise PluginError(
            f"{family.plugin.name} has nothing to cache",
            where=f"plugin {family.plugin.label}",
            do="choose a family whose training asks frozen networks; see its README",
        )
    return job


def _told(job: "CacheJob", folder: Path, found: "Survey") -> dict[str, Any]:
    return {
        "folder": str(folder),
        "fields": {name: {"shape": field.shape, "dtype": field.dtype} for name, field in job.fields.items()},
        "images": found.total,
        "kept": found.kept,
        "changed": found.changed,
        "to_make": len(found.todo),
        "bytes_per_image": found.row_bytes,
        "bytes_to_write": found.needed_bytes,
        "bytes_free": found.free_bytes,
    }


def _sentence(found: "Survey", folder: Path) -> str:
    """What will happen, before it does."""
    from mmcore.data.cache.survey import size_text

    whole = size_text(found.total * found.row_bytes)
    parts = [f"{found.total:,} images, {size_text(found.row_bytes)} each, {whole} in all; {folder}"]
    changed = f" ({found.changed:,} of them changed)" if found.changed else ""
    parts.append(
        f"{found.kept:,} are there, {len(found.todo):,} to make{changed}: {size_text(found.needed_bytes)} to write, "
        f"{size_text(found.free_bytes)} free"
    )
    return "\n".join(parts)


def _say_done(filled: Any, folder: Path, bad: int) -> None:
    from mmcore.data.cache.shards import BAD_NAME

    click.echo(f"{filled.made:,} made, {filled.rows:,} rows in all; checksums of {filled.verified:,} new shards agree")
    if bad:
        click.echo(f"{bad:,} images cannot be read and are left out; they are listed in {folder / BAD_NAME}")


def _check(job: "CacheJob", folder: Path, as_json: bool) -> None:
    import json

    from mmcore.data.cache.check import verify
    from mmcore.errors import DataError

    line = Count("checked", "images")
    problems = verify(job, folder, line)
    line.close()
    if as_json:
        click.echo(json.dumps({"ok": not problems, "folder": str(folder), "problems": problems}, indent=1))
    else:
        for problem in problems[:_SHOWN]:
            click.echo(f"  {problem}")
        if len(problems) > _SHOWN:
            click.echo(f"  ... and {len(problems) - _SHOWN} more; --json prints all")
    if problems:
        raise DataError(
            f"{len(problems)} problems in this cache",
            where=folder,
            do="delete damaged shards and run `mmcore data cache` again: it makes what is missing or has changed",
        )
    if not as_json:
        click.echo(f"{folder}: nothing is wrong")
