"""Where weights start: several published places, the folder `weights` of the data root, whole Hub repositories."""

from pathlib import Path

import pytest
from mmcore import AdamW, Constant, Data, Init, Model, Source, Stage
from mmcore.errors import MissingDataError
from mmcore.runs.initialise import by_part, initialise, told_start
from mmcore.weights.maps import LoadReport

STARTS = ("hf://owner/language", "hf://owner/tower")


class Recording(Model):
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


def test_a_name_on_the_hub_is_fetched_and_its_commit_kept(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    monkeypatch.setattr("mmcore.base.hub.silence", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    model = Recording()
    (entry,) = initialise(model, stage, ["hf://owner/name@v2"], tmp_path)
    assert model.filled == [folder]
    assert entry["commit"] == "abc123"


def test_a_published_file_that_no_hub_has_is_asked_for_by_its_folder(stage: Stage, tmp_path: Path) -> None:
    with_file = stage.replace(init=Init(published=("backbone.pth",)))
    with pytest.raises(MissingDataError, match=r"starts from backbone\.pth(.|\n)*weights"):
        initialise(Recording(), with_file, [], tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "backbone.pth").touch()
    model = Recording()
    initialise(model, with_file, [], tmp_path)
    assert model.filled == [tmp_path / "weights" / "backbone.pth"]


def test_a_start_tells_what_of_its_file_is_left_out_by_part() -> None:
    record = {"source": "a.pt", "filled": 3, "new": ["head.a"], "ignored": 3}
    names = ["model.depth.a", "model.depth.b", "model.scale.c"]
    told = "weights from a.pt: 3 tensors filled, 1 new (head 1), 3 of the file left out"
    assert told_start({**record, "ignored_by_part": by_part(names)}) == f"{told} (model.depth 2, model.scale 1)"
    assert told_start(record) == told  # of a run of an older version
