"""`mmcore plan`: everything about a run before it starts."""

from typing import Any

import click

from mmcore.cli.options import recipe_options, request_from


@click.command()
@recipe_options
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, for the batch layout."
)
@click.option(
    "--rate",
    metavar="NUMBER|RUN",
    help="Samples per second of all processes together, or a run folder whose log says it, for the hours.",
)
@click.option("--init", multiple=True, metavar="RUN|FILE|hf://...|random", help="Where the weights start; repeatable.")
@click.option(
    "--probe", is_flag=True, help="Make two steps on this machine, and extrapolate time and memory from the second."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=0), help="Data worker processes, for --probe.")
@click.option("--no-build", is_flag=True, help="Do not build the model or open the data: the recipe only, at once.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.pass_context
def plan(
    ctx: click.Context, nproc: int, rate: str | None, no_build: bool, probe: bool, as_json: bool, **values: Any
) -> None:
    """Show the resolved recipe with its sources, data counts, parameters, memory, steps and hours. Trains nothing.

    Lists everything for which `mmcore train` would stop before its first step; exits with 1 when there is something.
    """
    from mmcore.runs.plan import make_plan, read_rate

    measured = None if rate is None else read_rate(rate)
    if probe and no_build:
        raise click.UsageError("--probe builds the model: leave --no-build out.")
    result = make_plan(request_from(values), processes=nproc, build=not no_build, rate=measured, probe=probe)
    if as_json:
        import json

        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        from mmcore.runs.plan_text import render

        render(result)
    if result.problems:
        ctx.exit(1)
