"""Where weights start: several published places, the folder `weights` of the data root, whole Hub repositories."""

from pathlib import Path
from typing import Any

import pytest
from mmcore import AdamW, Constant, Data, Init, Source, Stage
from mmcore.errors import WeightsError
from mmcore.initialise import REPOSITORY_FILES, initialise
from mmcore.weights import LoadReport
from torch import nn

STARTS = ("hf://owner/language", "hf://owner/tower")


class Recording(nn.Module):
    """Remembers what it was filled from."""

    def __init__(self) -> None:
        super().__init__()
        self.filled: list[Path] = []

    def initialise(self, path: Path) -> LoadReport:
        self.filled.append(path)
        return LoadReport(filled=["a"])


@pytest.fixture
def stage() -> Stage:
    """A stage that starts from two published repositories."""
    return Stage(
        number=1,
        name="one",
        title="",
        origin="",
        steps=1,
        global_batch=1,
        micro_batch=1,
        data=Data(sources={"a": Source(weight=1.0, format="any")}),
        optim=AdamW(lr=1.0),
        schedule=Constant(),
        init=Init(published=STARTS),
    )


def test_every_published_place_fills_its_part_in_order(stage: Stage, tmp_path: Path) -> None:
    for name in ("language", "tower"):
        (tmp_path / "weights" / name).mkdir(parents=True)
    model = Recording()
    report = initialise(model, stage, [], tmp_path)
    assert model.filled == [tmp_path / "weights" / "language", tmp_path / "weights" / "tower"]
    assert [entry["source"] for entry in report] == [str(path) for path in model.filled]


def test_a_repository_is_fetched_whole_without_code_and_pinned(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def fetch(repository: str, *, allow_patterns: list[str], repo_type: str, revision: str | None) -> str:
        asked.append((repository, repo_type, revision))
        assert allow_patterns == list(REPOSITORY_FILES)
        folder = tmp_path / "models" / "snapshots" / "abc123"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    model = Recording()
    (entry,) = initialise(model, stage, ["hf://owner/name@v2"], tmp_path)
    assert asked == [("owner/name", "model", "v2")]
    assert entry["commit"] == "abc123"
    assert not any(pattern.endswith(".py") for pattern in REPOSITORY_FILES)


def test_a_name_that_is_no_repository_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a file or repository on the Hub"):
        initialise(Recording(), stage, ["hf://alone"], tmp_path)
