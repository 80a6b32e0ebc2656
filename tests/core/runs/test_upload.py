"""Exports go to the Hub, here a stand-in for its client: names are checked first, failures are told and taken up again;
the card says what the Hub reads."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmcore.base.yamltext import parse_yaml
from mmcore.contract.model import Model
from mmcore.contract.values import Batch, Prediction
from mmcore.errors import MmcoreError, UsageError
from mmcore.runs.card import bases, write_card
from mmcore.runs.upload import check_name, upload, waiting
from PIL import Image

WHAT = {"origin": "runs/a/checkpoints/step-7", "step": 7, "format": "hf"}


class Hub:
    """What is asked of huggingface_hub's client; fails as often as told."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        self.failures, self.calls = failures or [], list[tuple[str, dict[str, Any]]]()

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append(("create", {"name": name, **options}))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "exports" / "hf"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    return folder


@pytest.mark.parametrize("name", ["", "noowner", "a/b/c", "hf://a/b", "a/b c", "a/..", "/b"])
def test_what_names_no_repository_is_refused_before_anything_is_written(name):
    with pytest.raises(UsageError, match="cannot name a repository"):
        check_name(name)


def test_an_upload_that_fails_is_told_and_the_same_command_goes_on(out, monkeypatch):
    monkeypatch.setattr("mmcore.base.hub.silence", lambda: None)
    hub = Hub([ConnectionError("the line broke\nand more"), RuntimeError()])
    for said in ("the line broke", "RuntimeError"):
        with pytest.raises(MmcoreError, match="did not come to an end") as caught:
            upload(out, "me/mine", WHAT, private=True, api=hub)
        assert said in caught.value.what
        assert "same command again" in str(caught.value.do)
        assert waiting(out, WHAT)
    assert not waiting(out, {**WHAT, "step": 8})
    assert upload(out, "me/mine", WHAT, private=True, api=hub) == "https://huggingface.co/me/mine"
    assert not waiting(out, WHAT)
    assert hub.calls[-2] == ("create", {"name": "me/mine", "private": True, "exist_ok": True})
    assert hub.calls[-1][1]["folder_path"] == str(out)
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_a_changed_export_does_not_count_as_the_one_that_waits(out, monkeypatch):
    monkeypatch.setattr("mmcore.base.hub.silence", lambda: None)
    with pytest.raises(MmcoreError):
        upload(out, "me/mine", WHAT, private=False, api=Hub([OSError("x")]))
    (out / "model.safetensors").write_bytes(b"123456")
    assert not waiting(out, WHAT)


def test_a_login_that_may_not_is_told_how_to_log_in(out, monkeypatch):
    monkeypatch.setattr("mmcore.base.hub.silence", lambda: None)
    refused = RuntimeError("403 Forbidden")
    refused.response = SimpleNamespace(status_code=403)  # type: ignore[attr-defined]
    with pytest.raises(MmcoreError, match="lets nobody write") as caught:
        upload(out, "me/mine", WHAT, private=False, api=Hub([refused]))
    assert "hf auth login" in str(caught.value.do)


class Finder(Model):
    """Looks for whatever is named."""

    def prepare(self, images, *, names=None, prompt=None) -> Batch:
        return Batch("images", (), {})


class Talker(Model):
    def converse(self, image, turns) -> Batch:
        raise NotImplementedError

    def predict(self, batch) -> list[Prediction]:
        raise NotImplementedError


def opened_as(model: Model, run_dir: Path | None) -> Any:
    source = SimpleNamespace(format="COCO instances", weight=1.0)
    stage = SimpleNamespace(
        number=1, name="first", title="a stage", origin="assumed", class_names=("fork lift", "Palette ü"),
        data=SimpleNamespace(sources={"mine": source}),
    )  # fmt: skip
    settings = SimpleNamespace(plugin="toy", variant="one", stage=stage, seed=0, only=None)
    plugin = SimpleNamespace(label="toy (mmcore-toy 1)", distribution="mmcore-toy")
    return SimpleNamespace(
        model=model, settings=settings, step=7, run_dir=run_dir, family=SimpleNamespace(plugin=plugin)
    )


def test_a_card_says_what_the_hub_reads_and_shows_the_newest_picture(tmp_path, out):
    run = tmp_path / "run"
    for step, colour in ((1, "red"), (2, "green")):
        path = run / "pictures" / "val" / f"step-{step:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(path)
    weights = [{"source": "hf://some/base@abc"}, {"source": "/here/weights.bin"}, {"source": "hf://spaces/x/y/f.pth"}]
    (run / "run.json").write_text(json.dumps({"starts": [{"weights": weights}]}))
    (run / "metrics.jsonl").write_text('{"eval": {"AP": 0.5}}\n{"eval": {"A')
    assert bases(run) == ["some/base"]
    write_card(opened_as(Finder(), run), out, "ours", use=None, licence="cc-by-4.0", opens=True)
    _, head, text = (out / "README.md").read_text().split("---\n", 2)
    assert parse_yaml(head, "card") == {
        "license": "cc-by-4.0", "library_name": "mmcore", "pipeline_tag": "object-detection",
        "tags": ["mmcore", "toy"], "base_model": "some/base",
    }  # fmt: skip
    for part in (
        "1. fork lift",
        "2. Palette ü",
        "| AP | 50.0% |",
        "(example.jpg)",
        'names=["fork lift", "Palette ü"]',
    ):
        assert part in text
    assert (out / "example.jpg").read_bytes() == (run / "pictures/val/step-00000002.jpg").read_bytes()


def test_a_card_names_nothing_to_a_model_that_finds_its_own_classes_only(out):
    write_card(opened_as(Model(), None), out, "ours", use=None, licence=None, opens=True)
    assert 'model.predict("photo.jpg")\n' in (out / "README.md").read_text()


def test_a_card_without_a_stated_licence_says_so_and_talks_where_the_model_does(out):
    write_card(opened_as(Talker(), None), out, "ours", use=None, licence=None, opens=True)
    text = (out / "README.md").read_text()
    for part in ("license: other", "pipeline_tag: image-text-to-text", "## Licence\n\nNot stated", ".chat("):
        assert part in text
    assert "example.jpg" not in text
