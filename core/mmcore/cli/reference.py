"""The command reference as Markdown, made of the commands themselves: what `--help` says, on one page."""

import html
import inspect
from collections.abc import Iterator

import click


def reference(root: click.Group) -> str:
    """Every command with its arguments and options, subcommands below their group.

    Args:
        root: of the command line.
    """
    intro = "Made from the commands themselves; `mmcore COMMAND --help` says the same.\n"
    return "\n".join(["# Commands\n", intro, *_group(root, click.Context(root, info_name="mmcore"), "##")])


def _group(group: click.Group, context: click.Context, level: str) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield from _command(command, inner, level)
        if isinstance(command, click.Group):
            yield from _group(command, inner, level + "#")


def _command(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context))
    yield f"{level} {context.command_path}\n"
    yield f"```text\n{context.command_path} {pieces}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    rows = [record for option in command.get_params(context) if (record := option.get_help_record(context)) is not None]
    if rows:
        yield "| option | |\n|---|---|"
        yield "\n".join(f"| <code>{_cell(html.escape(names))}</code> | {_cell(text)} |" for names, text in rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")
