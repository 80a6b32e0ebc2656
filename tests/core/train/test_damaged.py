"""Run folders that were damaged or are somebody else's: a clear error or the older checkpoint, never a traceback."""

import json
import os
from pathlib import Path

import pytest
from mmcore.base.files import hash_file
from mmcore.base.jsonfile import parse_json, read_json
from mmcore.data.bad import BadSamples, Incident, quarantined
from mmcore.errors import CheckpointError
from mmcore.train import stored
from mmcore.train.metrics import cut, read

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        DEEP.encode(),
        b'{"a":' * 100_000,
        b"{",
        b'{"step": "3"}',
        b'{"step": true}',
        b"{}",
    ],
)
def test_a_file_that_is_no_such_object_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(content, {"step": int})


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=r"regular|directory"):
            read_json(tmp_path / name)


@pytest.fixture(scope="module")
def run_dir(toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy.run({"run_dir": str(folder)})
    return folder


def damaged_copy(run_dir: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(run_dir, folder / "copy")
    return folder / "copy"


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
@pytest.mark.parametrize(
    "content", ["[]", "{}", DEEP, "null", '{"version": 1, "step": 12, "files": {"state.json": 3}}']
)
def test_a_checkpoint_with_another_file_in_place_is_passed_over(
    run_dir: Path, tmp_path: Path, name: str, content: str
) -> None:
    copy = damaged_copy(run_dir, tmp_path)
    (stored.path_of(copy, 12) / name).write_text(content)
    assert stored.problem(stored.path_of(copy, 12))
    assert stored.last_good(copy, lambda text: None) == 8


def bind_again(path: Path) -> None:
    """Let the manifest say what is there: whoever changes a file can do that too."""
    manifest = json.loads((path / "manifest.json").read_text())
    size, digest = hash_file(path / "state.json")
    manifest["files"]["state.json"] = {"bytes": size, "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("position"),
        lambda state: state.pop("updates"),
        lambda state: state.update(step="12"),
        lambda state: state.update(step=8),
        lambda state: state["position"].update(step=1.5),
        lambda state: state["position"].update(extra=1),
        lambda state: state["position"].pop("samples"),
        lambda state: state.update(position=[]),
        lambda state: state.update(loss_scale="high"),
    ],
)
def test_a_state_with_a_missing_extra_or_mistyped_entry_is_damage(run_dir: Path, tmp_path: Path, change) -> None:
    path = stored.path_of(damaged_copy(run_dir, tmp_path), 12)
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))
    bind_again(path)
    assert "state.json" in str(stored.problem(path))


def test_the_state_of_another_step_beside_these_weights_is_noticed(run_dir: Path, tmp_path: Path) -> None:
    copy = damaged_copy(run_dir, tmp_path)
    other = stored.path_of(copy, 8) / "state.json"
    (stored.path_of(copy, 12) / "state.json").write_bytes(other.read_bytes())
    bind_again(stored.path_of(copy, 12))
    assert stored.problem(stored.path_of(copy, 12)) == "state.json is that of step 8"


def test_a_checkpoint_under_another_steps_name_is_noticed(run_dir: Path, tmp_path: Path) -> None:
    copy = damaged_copy(run_dir, tmp_path)
    stored.path_of(copy, 12).rename(stored.path_of(copy, 20))
    assert stored.problem(stored.path_of(copy, 20)) == "manifest.json is that of step-00000012"
    assert stored.last_good(copy, lambda text: None) == 8


def test_a_manifest_without_the_optimiser_is_damage(run_dir: Path, tmp_path: Path) -> None:
    path = stored.path_of(damaged_copy(run_dir, tmp_path), 12)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["optimizer.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert stored.problem(path) == "manifest.json names no optimizer"


def test_a_run_with_only_damaged_checkpoints_is_an_error(toy, run_dir: Path, tmp_path: Path) -> None:
    copy = damaged_copy(run_dir, tmp_path)
    for step in stored.steps_of(copy):
        (stored.path_of(copy, step) / "manifest.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="every checkpoint of this run is damaged"):
        toy.run({"run_dir": str(copy), "resume": True})


def test_records_are_read_up_to_the_line_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for damage in (DEEP, '{"step": "1"}', "[1]", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        path.write_text('{"step": 1}\n' + damage + '\n{"step": 2}\n')
        assert read(path) == [{"step": 1}]
        cut(path, 5)
        assert path.read_text() == '{"step": 1}\n'


def test_a_list_of_bad_samples_cut_inside_a_character_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    line = '{"source": "coco", "position": 3, "what": "kaputt \u00fc"}\n'.encode()
    path.write_bytes(line + line.replace(b"3", b"4")[: line.index(b"\xc3") + 1])
    assert quarantined(path) == {"coco": {3}}
    BadSamples(path).take([Incident("coco", 9, "half a pair \ud800", "x")])
    assert quarantined(path) == {"coco": {3, 9}}
