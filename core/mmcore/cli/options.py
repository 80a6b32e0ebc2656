"""Options that several commands share, and their way into a `Request`."""

import os
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


def as_words(said: str) -> str:
    """Words in any language as they were typed, also where the locale knows ASCII only; a `type` of options.

    There Python keeps the bytes it could not read as halves of surrogates, which no tokenizer takes.

    Raises:
        UsageError: they are not UTF-8.
    """
    if said.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in said):
        return said
    try:
        return os.fsencode(said).decode("utf-8")
    except UnicodeError:
        raise click.UsageError(f"{said!a} is not UTF-8. Use a UTF-8 locale, such as LC_ALL=C.UTF-8.") from None


classes_option = click.option(
    "--classes",
    metavar="LIST|MAP|FILE",
    help="What classes are called: '[a, b]' are these and no others; '{a: b, c: null}' calls a b and leaves c out;"
    " or a YAML file that holds one of them.",
)


def read_classes(given: str | None) -> dict[str, str]:
    """The map that --classes means; empty without one.

    Raises:
        UsageError: it is neither a list of names nor a map of names.
    """
    if given is None:
        return {}
    from mmcore.base.yamltext import parse_yaml
    from mmcore.contract.classes import as_map
    from mmcore.errors import UsageError

    path = Path(given)
    found = as_map(parse_yaml(path.read_text("utf-8") if path.is_file() else given, f"--classes {given}"))
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(
            "--classes is neither a list of names nor a map from names to names",
            where=f"--classes {given}",
            do="write '[forklift, person]' or '{lift truck: forklift, pallet: null}'",
        )
    return found


def recipe_options(command: Command) -> Command:
    """Plugin, stage, recipe and data options, the same for train, plan and data commands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_from(values: dict[str, Any]) -> Request:
    """A `Request` from the values of `recipe_options` and whatever else of its fields the command offers.

    Raises:
        click.UsageError: --plugin is missing.
    """
    if not values.get("plugin"):
        raise click.UsageError("--plugin is needed. See `mmcore plugins` for what is installed.")
    known = Request.__dataclass_fields__
    fields = {key: value for key, value in values.items() if key in known}
    if fields.get("sources"):
        fields["sources"] = tuple(name.strip() for name in fields["sources"].split(",") if name.strip())
    return Request(**fields)
