"""Options that several commands share, and their way into a `Request`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mmcore.runs.settings import Request

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--plugin", metavar="NAME", help="The model family; see `mmcore plugins`."),
    click.option("--stage", metavar="NUMBER|NAME", help="A stage of the family; see `mmcore plugins show NAME`."),
    click.option("--variant", metavar="NAME", help="A published size, or tiny. Default: the family's first."),
    click.option("--with", "extensions", multiple=True, metavar="NAME", help="An extension plugin; repeatable."),
    click.option(
        "--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML that replaces entries of the recipe."
    ),
    click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Replace one recipe entry; repeatable."),
    click.option("--data", type=click.Path(path_type=Path), help="Data root. Default: $MMCORE_DATA, else ./data."),
    click.option(
        "--own",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Train on the data that this file describes, and on nothing else. Stage default: finetune.",
    ),
    click.option("--add", multiple=True, metavar="FILE:WEIGHT", help="Mix described data into the recipe; repeatable."),
    click.option("--sources", metavar="A,B", help="Only these data sources of the recipe."),
    click.option("--demo", is_flag=True, help="Tiny variant on built-in sample data, minutes on a laptop."),
    click.option("--seed", type=int, default=0, show_default=True, help="Everything random follows from it."),
)


def recipe_options(command: Command) -> Command:
    """Plugin, stage, recipe and data options, the same for train, plan and data commands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_from(values: dict[str, Any]) -> Request:
    """A `Request` from the values of `recipe_options` and whatever else of its fields the command offers.

    Raises:
        click.UsageError: --plugin or --stage is missing.
    """
    for name in ("plugin",) if values.get("own") else ("plugin", "stage"):
        if not values.get(name):
            raise click.UsageError(f"--{name} is needed. See `mmcore plugins` for what is installed.")
    known = Request.__dataclass_fields__
    fields = {key: value for key, value in values.items() if key in known}
    if fields.get("sources"):
        fields["sources"] = tuple(name.strip() for name in fields["sources"].split(",") if name.strip())
    return Request(**fields)
