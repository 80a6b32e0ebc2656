"""Checkpoints are whole or not there, and damage is noticed."""

import errno
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from mmcore.base import files
from mmcore.errors import CheckpointError
from mmcore.train import checkpoint, stored
from safetensors.torch import load_file


@pytest.fixture
def run_dir(toy, tmp_path: Path) -> Path:
    """A finished run with checkpoints of steps 8 and 12."""
    toy.run({"run_dir": str(tmp_path / "run")})
    return tmp_path / "run"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def test_retention_keeps_the_last_and_every_kth_and_the_best(toy, tmp_path: Path) -> None:
    stage = {"checkpoint_every": 1, "keep_last": 2, "keep_every": 4, "best_metric": "toy/score", "eval_every": 2}
    toy.run({"run_dir": str(tmp_path), "stage": stage, "evaluating": True})
    assert stored.steps_of(tmp_path) == [4, 6, 8, 11, 12]
    assert stored.named(tmp_path, "best") == 6
    assert stored.named(tmp_path, "last") == 12
    assert checkpoint.load(tmp_path, "best").step == 6


def test_nothing_is_deleted_while_the_newest_is_damaged(run_dir: Path) -> None:
    flip(stored.path_of(run_dir, 12) / "model.safetensors")
    assert stored.retain(run_dir, keep_last=1, keep_every=None) == []
    assert stored.steps_of(run_dir) == [8, 12]


@pytest.mark.parametrize("damage", [truncate, flip, empty, remove])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(run_dir: Path, file: str, damage) -> None:
    damage(stored.path_of(run_dir, 12) / file)
    said: list[str] = []
    assert stored.last_good(run_dir, said.append) == 8
    assert "step-00000012" in said[0]
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(run_dir, 12)


def test_a_run_goes_on_from_the_last_good_checkpoint(toy, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "copy")
    flip(stored.path_of(tmp_path / "copy", 12) / "optimizer.safetensors")
    toy.run({"run_dir": str(tmp_path / "copy"), "resume": True})
    whole, again = (stored.path_of(folder, 12) for folder in (run_dir, tmp_path / "copy"))
    assert (whole / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()


def test_a_run_with_nothing_but_damage_says_so(toy, run_dir: Path) -> None:
    for step in (8, 12):
        remove(stored.path_of(run_dir, step) / "manifest.json")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        toy.run({"run_dir": str(run_dir), "resume": True})


def test_an_unknown_checkpoint_is_answered_with_the_known_ones(run_dir: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(run_dir, 5)
    assert "step-00000008, step-00000012" in str(caught.value)


def test_a_manifest_cannot_point_outside_its_folder(run_dir: Path) -> None:
    path = stored.path_of(run_dir, 12) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../log.txt"] = manifest["files"].pop("model.safetensors")
    path.write_text(json.dumps(manifest))
    assert stored.problem(path.parent) is not None


def test_a_pickle_posing_as_weights_is_never_run(run_dir: Path, tmp_path: Path) -> None:
    """Even with a manifest that vouches for it."""
    folder = stored.path_of(run_dir, 12)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "went-off")))
    manifest = json.loads((folder / "manifest.json").read_text())
    size, digest = files.hash_file(folder / "model.safetensors")
    manifest["files"]["model.safetensors"] = {"bytes": size, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="cannot read tensors"):
        checkpoint.load(run_dir, 12)
    assert not (tmp_path / "went-off").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_other_tools_open_the_files(toy, run_dir: Path) -> None:
    weights = load_file(stored.path_of(run_dir, 12) / "model.safetensors")
    ours = checkpoint.load_weights(run_dir)
    assert weights.keys() == ours.keys() == toy.Toy().state_dict().keys()
    assert all(torch.equal(weights[name], ours[name]) for name in weights)


def test_a_checkpoint_holds_no_pickle(run_dir: Path) -> None:
    kinds = {path.suffix for path in stored.path_of(run_dir, 12).iterdir()}
    assert kinds == {".safetensors", ".json"}


def test_all_types_survive_the_writer(tmp_path: Path) -> None:
    from mmcore.base.tensorfile import Slot, write_safetensors

    tensors = {
        "bf16": torch.randn(3, 5).bfloat16(), "half": torch.randn(2).half(), "flag": torch.tensor([True, False]),
        "int": torch.arange(7), "scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "strided": torch.randn(4, 6).T,
    }  # fmt: skip
    slots = [Slot(name, tuple(tensor.shape), tensor.dtype, tensor.detach) for name, tensor in tensors.items()]
    written = write_safetensors(tmp_path / "t.safetensors", slots)
    assert (written.size, written.sha256) == files.hash_file(tmp_path / "t.safetensors")
    for name, tensor in load_file(tmp_path / "t.safetensors").items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])


@pytest.mark.parametrize("writes_before", [0, 1, 3, 6])
def test_a_full_disk_leaves_the_older_checkpoints_and_no_rest(
    toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    """The disk is full after some more writes, wherever in the save that is."""
    toy.run({"run_dir": str(tmp_path), "stop_step": 4})
    before = (stored.path_of(tmp_path, 4) / "manifest.json").read_bytes()
    left = [writes_before]
    write_all = files.write_all

    def filling(file, data) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        write_all(file, data)

    monkeypatch.setattr(files, "write_all", filling)
    with pytest.raises(CheckpointError, match="disk is full") as caught:
        toy.run({"run_dir": str(tmp_path), "resume": True, "stop_step": 8})
    assert "earlier checkpoints are untouched" in str(caught.value)
    assert stored.steps_of(tmp_path) == [4]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert (stored.path_of(tmp_path, 4) / "manifest.json").read_bytes() == before
    monkeypatch.undo()
    toy.run({"run_dir": str(tmp_path), "resume": True})
    assert checkpoint.load(tmp_path).step == 12


def test_a_disk_that_is_really_full(toy, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs privileges that this user has not")
    try:
        stage = {"steps": 30, "checkpoint_every": 1, "keep_last": 30}
        with pytest.raises(CheckpointError, match="disk is full"):
            toy.run({"run_dir": str(mount / "run"), "stage": stage})
        steps = stored.steps_of(mount / "run")
        assert steps
        assert all(stored.problem(stored.path_of(mount / "run", step)) is None for step in steps)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_leftovers_of_killed_saves_are_removed_at_the_next_start(toy, run_dir: Path) -> None:
    rest = run_dir / "checkpoints" / ".step-00000013.tmp"
    rest.mkdir()
    (rest / "model.safetensors").write_bytes(b"half")
    toy.run({"run_dir": str(run_dir), "resume": True})
    assert not rest.exists()
