"""The page of `mmcore app`: a photograph, names or a question, and boxes, masks and words. Gradio draws it.

Nothing leaves the machine: no analytics, no shared link, no font or script from elsewhere.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcore.contract.values import Turn
from mmcore.errors import MmcoreError, UsageError
from mmcore.runs.demonstrate import COLUMNS, Abilities, Talk, abilities, sample_pictures, serving, shown
from mmcore.runs.load import Predictor

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_UPLOAD = "64mb"


def gradio() -> Any:
    """The library, with its messages home switched off before it is imported.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the page needs {error.name}, which is not installed",
            where="mmcore app",
            do="pip install 'mmcore-trainer[app]', in a checkout: pip install -c constraints-app.txt -e '.[app]'",
        ) from None
    return gradio


def build_page(predictor: Predictor, samples: Path | None = None) -> Any:
    """The page for one model, a `gradio.Blocks` that is not served yet.

    Args:
        predictor: the model.
        samples: a folder of pictures to try; None takes some of the model's own data.
    """
    gr, can = gradio(), abilities(predictor)
    page = gr.Blocks(title=f"mmcore: {predictor.opened.settings.plugin}", analytics_enabled=False)
    # Made before they are placed: questions stand beside the picture, answers on the other side.
    icons = ["download", "fullscreen"]  # the third would share the picture on the Hub
    drawn = gr.Image(label="Answer", format="png", interactive=False, height=380, buttons=icons, render=False)
    words = gr.HTML(elem_id="words", render=False)
    table = gr.Dataframe(headers=list(COLUMNS), interactive=False, render=False)
    chat = gr.Chatbot(label="Conversation", height=320, render_markdown=False, buttons=["copy_all"], render=False)
    with page:
        gr.Markdown(_title(predictor))
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=380,
                    buttons=["fullscreen"],
                )
                if files := sample_pictures(predictor, samples):
                    gr.Examples(files, picture, label="Sample pictures")
                example = _example(gr) if can.example else gr.State(None)
                if can.talk:
                    _talk(gr, predictor, picture, example, chat, [drawn, words, table])
                if can.example:
                    _like(gr, predictor, can, picture, example, [drawn, words, table])
                if can.names or not can.talk:
                    _find(gr, predictor, can, picture, [drawn, words, table])
            with gr.Column():
                for part in [*([chat] if can.talk else []), drawn, words, table]:
                    part.render()
        with gr.Accordion("Use this model elsewhere", open=False):
            gr.Markdown(serving(predictor))
    return page


def _title(predictor: Predictor) -> str:
    settings, step = predictor.opened.settings, predictor.opened.step
    return (
        f"## {settings.plugin} {settings.variant}\nStage {settings.stage.name}, step {step}, {predictor.opened.origin}"
    )


def _find(gr: Any, predictor: Predictor, can: Abilities, picture: Any, outputs: list[Any]) -> None:
    """Objects by name, or by an expression where that is not a conversation."""
    known = predictor.opened.settings.stage.class_names
    with gr.Row():
        names = gr.Textbox(
            label="Names",
            placeholder="forklift, pallet: separated by commas; empty: the model's own",
            value=", ".join(known),
            visible=can.names,
        )
        expression = gr.Textbox(
            label="Or an expression", placeholder="the red kite", visible=can.expression and not can.talk
        )
    with gr.Row():
        least = gr.Slider(0, 1, value=0.3, step=0.05, label="Least score")
        button = gr.Button("Find", variant="primary")

    def find(path: str | None, named: str | None, said: str | None, threshold: float) -> tuple[Any, ...]:
        if not path:
            raise gr.Error("choose a picture first", print_exception=False)
        prompt = (said or "").strip() or None  # a field that is not shown is None
        listed = list(dict.fromkeys(name.strip() for name in (named or "").split(",") if name.strip())) or None
        if prompt is not None:  # one expression names one thing: its best object, however sure
            listed, threshold = None, 0.0
        with _told(gr):
            found = shown(predictor.predict(path, names=listed, prompt=prompt, threshold=threshold))
        return found.picture, found.words, found.rows

    asked = [picture, names, expression, least]
    gr.on([button.click, names.submit, expression.submit], find, asked, outputs, concurrency_id="model")


def _example(gr: Any) -> Any:
    """Where something is shown instead of named; placed by `_like`."""
    return gr.Image(
        label="Example",
        type="filepath",
        sources=["upload", "clipboard"],
        height=180,
        buttons=[],
        elem_id="example",
        render=False,
    )


def _like(gr: Any, predictor: Predictor, can: Abilities, picture: Any, example: Any, outputs: list[Any]) -> None:
    """Objects like one that is shown, a crop of this picture or of another."""
    also = " Questions are about it as well." if can.talk else ""
    with gr.Accordion("Show what is meant", open=False):
        gr.Markdown(f"A picture of one thing, cut out of this photograph or another.{also}")
        example.render()
        button = gr.Button("Find what is like it", variant="primary")

    def like(path: str | None, shown_path: str | None) -> tuple[Any, ...]:
        if not path or not shown_path:
            raise gr.Error(f"choose {'an example' if path else 'a picture'} first", print_exception=False)
        with _told(gr):
            found = shown(predictor.predict(path, example=shown_path))
        return found.picture, found.words, found.rows

    gr.on([button.click], like, [picture, example], outputs, concurrency_id="model")


def _talk(gr: Any, predictor: Predictor, picture: Any, example: Any, chat: Any, outputs: list[Any]) -> None:
    """A conversation about the picture; a new picture or example begins a new one."""
    talk = Talk(predictor)
    turns = gr.State(())
    question = gr.Textbox(label="Question", placeholder="What is in the picture?", elem_id="question")
    with gr.Row():
        send = gr.Button("Ask", variant="primary")
        new = gr.Button("New conversation")

    def ask(path: str | None, shown_path: str | None, said: str, before: tuple[Turn, ...]) -> Iterator[tuple[Any, ...]]:
        if not said.strip():
            raise gr.Error("write a question first", print_exception=False)
        same = gr.skip()
        yield _bubbles([*before, Turn("user", said)]), before, "", same, same, same
        with _told(gr):
            for heard in talk.ask(path, said, before, shown_path):
                if heard.answer is None:
                    yield _bubbles(heard.turns), heard.turns, "", same, same, same
                    continue
                if heard.forgotten:
                    gr.Info("The conversation is longer than the model reads: its first rounds are forgotten.")
                found = shown(heard.answer)
                yield _bubbles(heard.turns), heard.turns, "", found.picture, found.words, found.rows

    gr.on(
        [send.click, question.submit],
        ask,
        [picture, example, question, turns],
        [chat, turns, question, *outputs],
        concurrency_id="model",
    )
    others = [one.change for one in (picture, example) if hasattr(one, "upload")]
    gr.on([new.click, *others], lambda: ([], (), None, "", []), None, [chat, turns, *outputs])


def _bubbles(turns: Any) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


@contextmanager
def _told(gr: Any) -> Generator[None, None, None]:
    """Mistakes of a visitor appear on the page, in words."""
    try:
        yield
    except MmcoreError as error:
        raise gr.Error(error.what + (f": {error.do}" if error.do else ""), print_exception=False) from None


def serve(page: Any, *, host: str, port: int, browser: bool = False) -> str:
    """Serve a page until `page.close()`; returns its address.

    Args:
        page: of `build_page`.
        host: the address it listens on; anything but the loopback one lets others in, without a password.
        port: 0 takes a free one.
        browser: open it in a browser.

    Raises:
        UsageError: the port is taken.
    """
    gr = gradio()
    plain = [gr.themes.utils.fonts.LocalFont("system-ui"), "sans-serif"]
    page.queue(default_concurrency_limit=1)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or free_port(host),
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=browser,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            run_history=False,
            max_file_size=LARGEST_UPLOAD,
            theme=gr.themes.Default(font=plain, font_mono=["monospace"]),
        )
    except OSError:  # Gradio's words are about its own settings
        raise UsageError(
            f"cannot listen on {host}, port {port}: another program does, or it is not allowed",
            where="--port",
            do="choose another --port; 0 takes a free one",
        ) from None
    return str(address)


def free_port(host: str) -> int:
    """A port nobody listens on now."""
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])
