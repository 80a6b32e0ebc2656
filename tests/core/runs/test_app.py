"""The page of `mmcore app`: what it asks a model, what it shows, and that nothing leaves the machine.

The page itself is tested where gradio is installed (extra `app`), in a browser where playwright finds a Chromium.
"""

import gc
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore.contract.model import Model
from mmcore.contract.values import Batch, Phrase, Prediction, Turn
from mmcore.errors import UsageError
from mmcore.geometry import masks
from mmcore.runs.app import build_page, gradio, serve
from mmcore.runs.demonstrate import Abilities, Talk, abilities, sample_pictures, serving, shown
from mmcore.runs.load import Predictor
from PIL import Image


class Seer(Model):
    """Finds the left half under every name, and says so in words whose last one means it."""

    def prepare(self, images: Sequence[np.ndarray], *, names=None, prompt=None) -> Batch:
        self.asked = (images[0].shape[:2], names, prompt, 0)
        return Batch("predict", (), {})

    def converse(self, image, turns) -> Batch:
        self.asked = ((0, 0) if image is None else image.shape[:2], None, turns[-1].text, len(turns) // 2)
        return Batch("predict", (), {})

    def predict(self, batch: Batch) -> list[Prediction]:
        (height, width), names, _, before = self.asked
        left = np.zeros((1, height, width), np.uint8)
        left[:, :, : width // 2] = 1
        box, score = torch.tensor([[0.0, 0, width / 2, height]]), torch.tensor([0.8])
        if names is not None:
            return [Prediction(0, (height, width), box, score, torch.tensor([0]), tuple(names[:1]))]
        text = f"<b>{before}</b> the left"
        if height == 0:
            return [Prediction(None, (0, 0), text=text)]
        phrases = (Phrase(0, len(text) - 4, len(text), (0,)),)
        return [
            Prediction(
                0, (height, width), box, score, None, ("left",), masks.encode_all(left), text=text, phrases=phrases
            )
        ]


class Pointed(Seer):
    """Is shown what to find, too."""

    def prepare(self, images: Sequence[np.ndarray], *, names=None, prompt=None, example=None) -> Batch:
        batch = super().prepare(images, names=names, prompt=prompt)
        if example is not None:
            self.asked = (images[0].shape[:2], None, None, f"{example.shape[1]} x {example.shape[0]}")
        return batch

    def converse(self, image, turns, *, example=None) -> Batch:
        del example
        return super().converse(image, turns)


class Namer(Seer):
    """A detector."""

    converse = Model.converse

    def prepare(self, images, *, names=None, prompt=None) -> Batch:
        if prompt is not None:
            raise UsageError("no expressions")
        return super().prepare(images, names=names or ["own"])


def predictor_of(model: Model, data: Path = Path("nowhere")) -> Predictor:
    images = SimpleNamespace(images="val")
    stage = SimpleNamespace(
        class_names=("kite",), name="first", validation={"v": images}, data=SimpleNamespace(sources={})
    )
    settings = SimpleNamespace(plugin="toy", variant="one", stage=stage, data=str(data))
    opened = SimpleNamespace(model=model, settings=settings, origin="nowhere", run_dir=None, step=3)
    return Predictor(opened, "cpu")  # type: ignore[arg-type]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "val" / "photo.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
    return path


def test_what_a_model_can_be_asked_is_found_by_asking():
    seer = Abilities(names=True, expression=True, talk=True, example=False)
    assert abilities(predictor_of(Seer())) == seer
    assert abilities(predictor_of(Pointed())) == replace(seer, example=True)
    assert abilities(predictor_of(Namer())) == replace(seer, expression=False, talk=False)


def test_words_are_escaped_and_phrases_have_the_colour_of_their_mask(photo):
    found = shown(predictor_of(Seer()).predict(photo, prompt="where?"))
    assert "&lt;b&gt;0&lt;/b&gt; the <mark" in found.words
    assert "rgb(230, 159, 0)" in found.words
    assert found.rows == [["left", "0.80", "0, 0, 20, 30", "yes"]]
    nothing = shown(predictor_of(Namer()).predict(photo, names=["x"], threshold=0.9))
    assert nothing.rows == []
    assert "nothing scores 0.90 or more; the best scores 0.80" in nothing.words


def test_a_conversation_is_kept_by_the_visitor_and_mistakes_come_through(photo):
    talk = Talk(predictor_of(Seer()))
    *_, first = talk.ask(str(photo), "one", ())
    *_, second = talk.ask(str(photo), "two", first.turns)
    assert [turn.text for turn in second.turns] == ["one", "<b>0</b> the left", "two", "<b>1</b> the left"]
    assert second.answer is not None
    *_, like = Talk(predictor_of(Pointed())).ask(str(photo), "like it?", (), str(photo))
    assert like.text == "<b>40 x 30</b> the left"
    *_, words = talk.ask(None, "no picture", ())
    assert words.answer is None
    with pytest.raises(UsageError, match="no question"):
        list(talk.ask(None, " ", (Turn("user", "a"), Turn("assistant", "b"))))


def test_sample_pictures_are_those_of_a_folder_or_of_validation(photo, tmp_path):
    assert sample_pictures(predictor_of(Seer(), tmp_path / "data"), None) == [str(photo)]
    assert sample_pictures(predictor_of(Seer()), photo.parent) == [str(photo)]
    assert sample_pictures(predictor_of(Seer()), None) == []


def test_a_page_says_how_its_model_is_served(tmp_path):
    predictor = predictor_of(Seer())
    assert "opens with `mmcore.load`" in serving(predictor)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    predictor.opened.origin = str(tmp_path)  # type: ignore[misc]
    assert f"`vllm serve {tmp_path}` need no mmcore" in serving(predictor)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match="pip install 'mmcore-trainer\\[app\\]'"):
        gradio()


@pytest.fixture
def address(photo, tmp_path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the page needs the extra `app`")
    page = build_page(predictor_of(Pointed(), tmp_path / "data"))
    yield serve(page, host="127.0.0.1", port=0)
    page.close(verbose=False)
    gc.collect()  # what the server's loops leave open is told now, while this test's filters hold


@pytest.mark.filterwarnings("ignore")
def test_the_page_listens_on_this_machine_only_and_sends_no_analytics(address):
    import json
    import urllib.request

    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{address}config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False


@pytest.mark.filterwarnings("ignore")
def test_a_port_that_is_taken_is_told_in_our_words(address):
    page = build_page(predictor_of(Seer()))
    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1, port \d+: another program does"):
        serve(page, host="127.0.0.1", port=int(address.rstrip("/").rpartition(":")[2]))
    page.close(verbose=False)


@pytest.mark.filterwarnings("ignore")
def test_in_a_browser_a_picture_is_uploaded_named_and_talked_about(address, photo):
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("the browser test needs a Chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("toy one").wait_for(timeout=60_000)
        page.locator("input[type=file]").first.set_input_files(photo)
        page.locator("button[aria-label=Clear], button[aria-label='Remove Image']").first.wait_for(timeout=60_000)
        page.get_by_label("Question").fill("where?")
        page.get_by_role("button", name="Ask").click()
        page.locator("#words mark").wait_for(timeout=60_000)
        assert page.locator("#words mark").inner_text() == "left"
        page.get_by_label("Names").fill("kite, dog")
        page.get_by_role("button", name="Find").click()
        page.get_by_role("gridcell", name="kite").first.wait_for(timeout=60_000)
        page.get_by_text("Show what is meant").click()
        page.locator("#example input[type=file]").set_input_files(photo)
        page.locator("#example button[aria-label=Clear], #example button[aria-label='Remove Image']").first.wait_for()
        page.get_by_role("button", name="Find what is like it").click()
        page.get_by_text("40 x 30").wait_for(timeout=60_000)
        browser.close()
    assert [url for url in asked if "://" in url and not url.startswith(address)] == []
