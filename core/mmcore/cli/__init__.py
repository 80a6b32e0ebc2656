"""The `mmcore` command: parse, resolve, call. Each command is a module that is imported only when it is used."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from mmcore.base import collector
from mmcore.base.failure import describe, is_echo, leave, refusal
from mmcore.base.terminal import protect, tell
from mmcore.errors import MmcoreError
from mmcore.version import __version__

COMMANDS = {
    "train": ("mmcore.cli.train:train", "Train a stage of a model family, or resume a run."),
    "plan": ("mmcore.cli.plan:plan", "Show the resolved recipe, data and parameters; train nothing."),
    "eval": ("mmcore.cli.evaluate:evaluate", "Evaluate a run by its family's published protocol."),
    "predict": ("mmcore.cli.predict:predict", "Predict on images: JSON and drawn pictures."),
    "chat": ("mmcore.cli.chat:chat", "Talk about pictures with a language model, in the terminal."),
    "app": ("mmcore.cli.app:app", "Try a model in the browser: pictures, names, questions."),
    "export": ("mmcore.cli.export:export", "Write a run's weights as safetensors for others to use."),
    "plugins": ("mmcore.cli.plugins:plugins", "List, show, create and check plugins."),
    "data": ("mmcore.cli.data:data", "Make sample data; check, draw and index data."),
    "runs": ("mmcore.cli.runs:runs", "List runs."),
    "report": ("mmcore.cli.report:report", "Draw the curves of a run, or compare several."),
    "doctor": ("mmcore.cli.doctor:doctor", "Check this machine and the installation."),
}


class _LazyGroup(click.Group):
    """Commands by name, imported on use; an unknown one is answered with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return getattr(import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mmcore")
def cli() -> None:
    """One trainer for grounded vision-language models and object detectors.

    Families are plugins: `mmcore plugins` lists them. Try one: `mmcore train --plugin NAME --stage NUMBER --demo`.
    Add --debug to any command for a full traceback.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 wrong usage, 3 out of memory, 128 + n saved after signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("MMCORE_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    # DeepSpeed and others report their set-up at INFO and WARNING through their own loggers.
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    # Read when torch loads OpenMP. Threads that spin while they wait make a CPU run tens of times slower as soon as
    # anything else wants a core (two runs on two cores: 18 s a step instead of 0.6 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    protect()
    collector.start()
    try:
        code = cli.main(arguments, prog_name="mmcore", standalone_mode=False, obj={"debug": debug})
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Abort:
        code = 130
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`mmcore plugins | head`): not an error, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _failed(error, debug)
    finally:
        collector.work()
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: Exception, debug: bool) -> int:
    """Say why a command failed, to the launcher where there is one; its exit code."""
    told = error if isinstance(error, MmcoreError) else refusal(error)
    code = told.exit_code if told is not None else 1
    if leave(error if told is None else told, code):
        return code
    if debug or (told is None and not is_echo(error)):
        raise error
    gone = "LaunchError: another process of this run is gone: "
    tell((describe(told) if told is not None else gone + str(error).splitlines()[0]) + _whose())
    return code


def _whose() -> str:
    """Which of several processes says so, under launchers that mix their words."""
    world = os.environ.get("WORLD_SIZE", "1")
    return f"\n  rank:  {os.environ.get('RANK', '0')} of {world}" if world not in ("", "1") else ""
