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
@click.option("--no-build", is_flag=True, help="Do not build the model or open the data: the recipe only, at once.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def plan(nproc: int, rate: str | None, no_build: bool, as_json: bool, **values: Any) -> None:
    """Show the resolved recipe with its sources, data counts, parameters, memory, steps and hours. Trains nothing."""
    from mmcore.runs.plan import make_plan, read_rate

    measured = None if rate is None else read_rate(rate)
    result = make_plan(request_from(values), processes=nproc, build=not no_build, rate=measured)
    if as_json:
        import json

        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        from mmcore.runs.plan_text import render

        render(result)
