"""Names on the Hub: what is asked for, what is left there, and what happens when nobody answers."""

import contextlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from mmcore.base import hub
from mmcore.errors import MissingDataError, WeightsError


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that answers; tests that mean the opposite say so."""
    monkeypatch.setattr(hub, "_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


class Hub:
    """Repositories as lists of files; keeps what was asked of it."""

    def __init__(self, cache: Path, files: dict[str, list[str]]) -> None:
        self.cache, self.files = cache, files
        self.asked: list[tuple[str, str, str | None]] = []

    def snapshot(
        self,
        repository: str,
        *,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        repo_type: str,
        revision: str | None,
        local_files_only: bool = False,
    ) -> str:
        folder = self.cache / repository / "snapshots" / "abc123"
        if not local_files_only:
            self.asked.append((repository, repo_type, revision))
            for name in self.files[repository]:
                kept = any(fnmatch(name, pattern) for pattern in allow_patterns)
                if kept and not any(fnmatch(name, pattern) for pattern in ignore_patterns):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).touch()
        return str(folder)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """One repository with weights in two precisions, code, and a folder of its own kind."""
    names = ["config.json", "model.safetensors", "model.fp16.safetensors", "modeling.py", "setup.sh"]
    files = {"owner/name": [*names, *(f"encoder/{name}" for name in names)]}
    found = Hub(tmp_path, files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot)
    return found


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_of_a_repository_weights_and_settings_are_fetched_and_no_code(remote: Hub) -> None:
    path = hub.fetch("hf://owner/name@v2", do="")
    assert remote.asked == [("owner/name", "model", "v2")]
    assert names_below(path) == ["config.json", "encoder/config.json", "encoder/model.safetensors", "model.safetensors"]
    assert hub.commit_of(path) == "abc123"


def test_of_a_folder_only_that_folder_is_fetched(remote: Hub) -> None:
    path = hub.fetch("hf://owner/name/encoder", do="")
    assert path.name == "encoder"
    assert names_below(path.parent) == ["encoder/config.json", "encoder/model.safetensors"]


def test_what_was_never_fetched_is_not_there_and_nobody_is_asked(remote: Hub) -> None:
    assert hub.fetched("hf://owner/name/encoder") is None
    fetched = hub.fetch("hf://owner/name/encoder", do="")
    assert hub.fetched("hf://owner/name/encoder") == fetched
    (fetched / "model.safetensors").unlink()
    assert hub.fetched("hf://owner/name/encoder") is None
    assert len(remote.asked) == 1


def test_a_file_is_named_by_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, path: str, **options: Any) -> str:
        assert (repository, path, options) == ("owner/name", "a/b.pth", {"repo_type": "space", "revision": None})
        return str(tmp_path / "b.pth")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert hub.fetch("hf://spaces/owner/name/a/b.pth", do="") == tmp_path / "b.pth"


def test_a_silent_hub_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", silent)
    with pytest.raises(MissingDataError, match="from the Hub: no route") as caught:
        hub.fetch("hf://owner/name", do="plug it in")
    assert "plug it in" in str(caught.value)
    assert hub.fetched("hf://owner/name") is None


@pytest.mark.parametrize("name", ["hf://alone", "hf://owner//file", "hf://spaces/owner"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="not a file or repository on the Hub"):
        hub.fetch(name, do="")


def refuse(*_: Any, **__: Any) -> str:
    raise AssertionError("the network was asked")


def test_a_silent_hub_is_tried_once_and_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def no_route(request: Any, timeout: float) -> None:
        del request
        tries.append(timeout)
        raise OSError("no route")

    monkeypatch.undo()
    hub._answers.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", no_route)
    try:
        for _ in range(2):
            with pytest.raises(MissingDataError, match=r"no answer from .* within 4 s") as caught:
                hub.fetch("hf://owner/name-never-fetched", do="plug it in")
            assert "plug it in" in str(caught.value)
    finally:
        hub._answers.cache_clear()
    assert tries == [hub.TRY_SECONDS]


@pytest.mark.parametrize("why", ["offline", "planning"])
def test_nobody_is_asked_offline_or_while_planning(why: str, remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    there = hub.fetch("hf://owner/name", do="")
    monkeypatch.setattr(hub, "_answers", refuse)
    if why == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with hub.unasked() if why == "planning" else contextlib.nullcontext():
        assert hub.fetch("hf://owner/name", do="") == there
        kind = hub.NotFetchedError if why == "planning" else MissingDataError
        with pytest.raises(kind, match="not on this machine"):
            hub.fetch("hf://owner/other", do="")
    assert len(remote.asked) == 1
