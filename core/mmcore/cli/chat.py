"""`mmcore chat`: talk with a language model that sees, in the terminal or through a pipe."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mmcore.cli.options import as_words

if TYPE_CHECKING:
    from mmcore.runs.chat import Chat


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT|EXPORT")
@click.argument("image", required=False, type=click.Path(path_type=Path), metavar="[IMAGE]")
@click.option(
    "--prompt", "prompts", type=as_words, multiple=True, metavar="TEXT", help="Ask this and end; repeatable, in order."
)
@click.option(
    "--example",
    metavar="FILE|L,T,R,B",
    help="What is spoken of, shown: an image of it, or a box in pixels of the image. For families with visual prompts.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="For drawn answers. Default: RUN/chat or ./chat."
)
@click.option("--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Of a run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def chat(
    target: str,
    image: Path | None,
    prompts: tuple[str, ...],
    example: str | None,
    out: Path | None,
    checkpoint: str,
    device: Literal["auto", "cpu", "cuda"],
) -> None:
    """Talk about pictures; what was said is remembered, answers come word by word.

    A line that begins with the path of a picture changes the picture. Through a pipe, each line is a question:
    `echo "What is red?" | mmcore chat RUN photo.jpg`. /help lists what else a line may be.
    """
    from mmcore.runs.chat import Chat
    from mmcore.runs.load import load
    from mmcore.runs.predict import read_example

    predictor = load(target, checkpoint=checkpoint, device=device)
    run_dir = predictor.opened.run_dir
    folder = out or (run_dir / "chat" if run_dir else Path("chat"))
    talk = Chat(predictor, _write, _note, folder, None if example is None else read_example(example))
    if image is not None:
        talk.look(image)
    if prompts:
        for prompt in prompts:
            talk.ask(prompt)
    elif sys.stdin.isatty():
        _at_a_terminal(talk, repr(predictor))
    else:
        for line in sys.stdin:
            if line.strip() and not talk.line(as_words(line)):
                break


def _at_a_terminal(talk: "Chat", who: str) -> None:
    import contextlib

    from mmcore.errors import DataError, UsageError

    with contextlib.suppress(ImportError):  # arrow keys and history at the prompt
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]

    _note(f"{who}\n/help says what a line may be.")
    while True:
        try:
            line = as_words(input("> "))
        except EOFError:
            _write("\n")
            return
        try:
            if line.strip() and not talk.line(as_words(line)):
                return
        except KeyboardInterrupt:
            continue
        except (DataError, UsageError) as error:  # put right with the next line
            _note(f"{type(error).__name__}: {error}")


def _write(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()


def _note(line: str) -> None:
    """Beside the conversation: standard error, so that a pipe's output holds answers only."""
    sys.stdout.flush()
    click.echo(line, err=True)
