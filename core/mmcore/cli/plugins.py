"""`mmcore plugins`: list, show, create and check plugins. Nothing but `check` imports torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmcore.contract.recipe import Stage
    from mmcore.plugins import Plugin


@click.group(invoke_without_command=True)
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List, show, create and check plugins; without a subcommand, list."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_(as_json: bool) -> None:
    """Every installed plugin, broken ones with what is wrong and what to do."""
    from mmcore.plugins.survey import survey

    found = survey()
    if as_json:
        click.echo(json.dumps({"plugins": found}, indent=2))
        return
    if not found:
        click.echo("no plugins are installed; install a family with pip, or write one: mmcore plugins new NAME")
    rows = [
        (entry["name"], f"{entry['distribution']} {entry['version']}", entry["kind"] or "-", _summary(entry))
        for entry in found
        if not entry["problem"]
    ]
    if rows:
        _print_table(("plugin", "package", "kind", ""), rows)
    for entry in found:
        if entry["problem"]:
            click.echo(f"{entry['name']}  {entry['distribution']} {entry['version']}  cannot be used")
            click.echo(f"  problem: {entry['problem']}")
            click.echo(f"  do:      {entry['remedy']}")


def _summary(entry: dict[str, Any]) -> str:
    sizes = f" ({', '.join(entry['variants'])})" if entry["variants"] else ""
    return (entry["title"] or ", ".join(entry["hooks"])) + sizes


@plugins.command("show")
@click.argument("name")
@click.option("--variant", metavar="NAME", help="A published size. Default: the family's first.")
@click.option("--with", "extensions", multiple=True, metavar="NAME", help="An extension plugin; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def show(name: str, variant: str | None, extensions: tuple[str, ...], as_json: bool) -> None:
    """The stages of a family: steps, batch, learning rate, data, and where the numbers come from."""
    from mmcore import plugins as kit
    from mmcore.runs.config import to_tree

    plugin = kit.load(name)
    if not plugin.is_family:
        _show_extension(plugin, as_json)
        return
    chosen = variant or plugin.variants[0]
    stages = kit.stages(kit.manager(plugin, extensions), plugin, chosen)
    if as_json:
        click.echo(
            json.dumps({**plugin.describe(), "variant": chosen, "stages": [to_tree(s) for s in stages]}, indent=2)
        )
        return
    click.echo(f"{plugin.label}: {plugin.title}")
    others = [other for other in plugin.variants if other != chosen]
    click.echo(f"variant {chosen}" + (f"; others, with --variant: {', '.join(others)}" if others else ""))
    if plugin.family and plugin.family.hub:
        click.echo(f"published checkpoints: {', '.join(plugin.family.hub)}")
    click.echo()
    _print_table(("stage", "length", "batch", "learning rate", "starts from"), [_stage_row(stage) for stage in stages])
    for stage in stages:
        _print_stage(stage)


def _show_extension(plugin: "Plugin", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plugin.describe(), indent=2))
        return
    click.echo(f"{plugin.label}: {plugin.title}".rstrip(": "))
    hooks = ", ".join(plugin.hooks) or "no hook"
    click.echo(f"an extension: --plugin FAMILY --with {plugin.name}; it answers or wraps {hooks}")


def _stage_row(stage: "Stage") -> tuple[str, str, str, str, str]:
    length = f"{stage.steps:,} steps" if stage.steps is not None else f"{stage.epochs:g} epochs"
    start = [f"stage {stage.init.stage}"] if stage.init.stage else []
    start += [" and ".join(stage.init.names)] if stage.init.names else []
    start += ["random weights"] if stage.init.optional and not start else []
    batch = f"{stage.global_batch} ({stage.micro_batch} a process)"
    return f"{stage.number} {stage.name}", length, batch, f"{stage.optim.lr:g}", " or ".join(start) or "-"


def _print_stage(stage: "Stage") -> None:
    click.echo(f"\nstage {stage.number} {stage.name}: {stage.title}")
    click.echo(f"  numbers from: {stage.origin}")
    for note in stage.notes:
        click.echo(f"  note: {note}")
    if stage.optim.multipliers:
        click.echo("  learning rates: " + ", ".join(f"{k} x {v:g}" for k, v in stage.optim.multipliers.items()))
    if stage.frozen:
        click.echo(f"  frozen: {', '.join(stage.frozen)}")
    whole = sum(source.weight for source in stage.data.sources.values()) or 1.0
    rows = [
        (name, f"{source.weight:g}", f"{source.weight / whole:.1%}", source.format, _files(source.annotations))
        for name, source in stage.data.sources.items()
    ]
    rows += [(name, "", "val", v.format, _files(v.annotations)) for name, v in stage.validation.items()]
    click.echo()
    _print_table(("source", "ratio", "share", "format", "annotations"), rows, indent="  ")


def _files(annotations: str | Sequence[str]) -> str:
    return annotations if isinstance(annotations, str) else ", ".join(annotations)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for number, row in enumerate([header, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(indent + (click.style(line, bold=True) if number == 0 else line))


@plugins.command("new")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="New folder. Default: ./mmcore-NAME.")
@click.option("--kind", type=click.Choice(["detector", "lmm"]), default="detector", show_default=True, help="Of model.")
@click.option("--extension", is_flag=True, help="No model: change recipes of other families, or add data and metrics.")
def new(name: str, out: Path | None, kind: str, extension: bool) -> None:
    """Write a complete plugin with a tiny model, a recipe, sample data, a test and a README."""
    from mmcore.errors import UsageError
    from mmcore.plugins import installed
    from mmcore.plugins.scaffold import EXTENSION, KINDS, write_plugin

    if name in installed():
        raise UsageError(
            f"a plugin named {name!r} is installed already", where="mmcore plugins new", do="choose another name"
        )
    folder = out or Path(f"mmcore-{name}")
    for path in write_plugin(name, folder, EXTENSION if extension else kind):
        click.echo(path)
    click.echo(f"\nnext:  pip install --no-deps -e {folder}")
    click.echo(f"       mmcore plugins check {name}")
    if extension:
        click.echo(f"       mmcore plan --plugin FAMILY --stage 1 --demo --with {name}")
    else:
        click.echo(f"       mmcore train --plugin {name} --stage {KINDS[kind]} --demo --out runs/{name}")


@plugins.command("check")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Run the battery that every family passes; exit code 1 when a check fails."""
    from mmcore import plugins as kit

    if name not in kit.installed():
        kit.load(name)  # says so, with the nearest name
    from mmcore.conformance import battery

    outcomes = []
    debug = bool((ctx.find_root().obj or {}).get("debug"))
    for outcome in battery(name):
        outcomes.append(outcome)
        if not as_json:
            mark = click.style("ok  ", fg="green") if outcome.ok else click.style("FAIL", fg="red")
            one_line = outcome.ok and outcome.detail
            click.echo(f"{mark}  {outcome.check}" + (f" ({one_line})" if one_line else ""))
            shown = "" if outcome.ok else outcome.detail + (f"\nat {outcome.place}" if outcome.place else "")
            shown += f"\n{outcome.trace}" if debug and not outcome.ok else ""
            for line in shown.splitlines():
                click.echo(f"        {line}")
    failed = sum(not outcome.ok for outcome in outcomes)
    if as_json:
        lines = [{"check": o.check, "ok": o.ok, "detail": o.detail, "place": o.place} for o in outcomes]
        click.echo(json.dumps({"plugin": name, "ok": not failed, "checks": lines}, indent=2))
    else:
        click.echo(f"{len(outcomes) - failed} of {len(outcomes)} checks passed")
    ctx.exit(1 if failed else 0)
