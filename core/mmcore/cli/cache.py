"""`mmcore data cache`: compute once what frozen networks say of every image, so that training need not run them."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcore.cli.options import recipe_options, request_from

if TYPE_CHECKING:
    from mmcore.data.cache.features import CacheJob
    from mmcore.data.cache.fill import Survey
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

    from mmcore.data.cache.fill import fill, refuse_full, survey
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
        line = _Line()
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
        line.end()
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
    from mmcore.data.cache.fill import size_text

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

    line = _Line("checked")
    problems = verify(job, folder, line)
    line.end()
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


class _Line:
    """Progress on stderr: one line that is rewritten on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, doing: str = "images") -> None:
        self._doing = doing
        self._live = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._last = self._begin if not self._live else 0.0
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._last < (0.2 if self._live else 10.0) and done < total:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        left = f"{rate:.1f}/s, {_clock((total - done) / rate)} left" if rate else "starting"
        text = f"{done:,} of {total:,} {self._doing}, {left}"
        sys.stderr.write(f"\r\033[K{text}" if self._live else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._live and self._first is not None:
            sys.stderr.write("\r\033[K")


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
