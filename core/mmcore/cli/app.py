"""`mmcore app`: a page in the browser for one trained model."""

from pathlib import Path
from typing import Literal

import click


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT|EXPORT")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; the default is this machine."
)
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 takes a free one.")
@click.option(
    "--samples", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of sample pictures."
)
@click.option("--browser/--no-browser", default=False, help="Open it in the browser.")
@click.option("--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Of a run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def app(
    target: str,
    host: str,
    port: int,
    samples: Path | None,
    browser: bool,
    checkpoint: str,
    device: Literal["auto", "cpu", "cuda"],
) -> None:
    """A page in the browser: a photograph, names or a question, and boxes, masks and words.

    It listens on this machine only unless --host says otherwise, and sends nothing anywhere. Needs the extra `app`.
    """
    import threading

    from mmcore.runs.app import LOOPBACK, build_page, gradio, serve
    from mmcore.runs.load import load

    gradio()  # says at once when it is missing
    page = build_page(load(target, checkpoint=checkpoint, device=device), samples)
    address = serve(page, host=host, port=port, browser=browser)
    if host not in LOOPBACK:
        click.echo(
            f"everybody who reaches {host} can use this page and see its sample pictures; it has no password", err=True
        )
    click.echo(f"{address}\nCtrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)
