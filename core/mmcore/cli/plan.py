"""`mmcore plan`: everything about a run before it starts."""

from typing import Any

import click

from mmcore.cli.options import recipe_options, request_from


@click.command()
@recipe_options
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, for the batch layout."
)
@click.option("--no-build", is_flag=True, help="Do not build the model or open the data: the recipe only, at once.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def plan(nproc: int, no_build: bool, as_json: bool, **values: Any) -> None:
    """Show the resolved recipe with its sources, data counts, parameter table, steps and samples. Trains nothing."""
    from mmcore.runs.plan import make_plan, render

    result = make_plan(request_from(values), processes=nproc, build=not no_build)
    if as_json:
        import json

        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        render(result)
