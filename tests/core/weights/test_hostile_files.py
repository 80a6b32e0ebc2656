"""Weights files that lie about themselves are refused before they cost time or memory."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from mmcore.errors import UnsafeDataError, WeightsError
from mmcore.weights.files import read_tensors, write_safetensors


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    inner: dict = {}
    inner["model"] = inner
    torch.save(inner, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not tensors"):
        read_tensors(tmp_path / "a.pth")


def test_a_view_of_few_numbers_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(1_000_000_000)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    with pytest.raises(UnsafeDataError, match="views of few numbers"):
        read_tensors(tmp_path / "a.pth")


def test_an_archive_that_grows_when_it_is_opened_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert (tmp_path / "b.pth").stat().st_size < 20_000
    with pytest.raises(UnsafeDataError, match="never stored compressed"):
        read_tensors(tmp_path / "b.pth")


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    for path in write_safetensors({"a": torch.zeros(3)}, tmp_path):
        assert path.stat().st_mode & 0o777 == 0o644


def test_tied_parameters_are_no_lie(tmp_path: Path) -> None:
    shared = torch.randn(10, 10)
    torch.save({"embedding": shared, "head": shared, "bias": torch.zeros(10)}, tmp_path / "a.pth")
    assert set(read_tensors(tmp_path / "a.pth")) == {"embedding", "head", "bias"}


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../a.safetensors", "model.safetensors.index.json", "a\\b", "nowhere.bin", 3]
)
def test_an_index_names_weights_beside_it_and_nothing_else(tmp_path: Path, name: object) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises((UnsafeDataError, WeightsError), match="the index names"):
        read_tensors(path)


@pytest.mark.parametrize("content", ["[]", '{"weight_map": []}', "[" * 100_000, '{"a":' * 100_000])
def test_an_index_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="index of this checkpoint"):
        read_tensors(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "model.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnsafeDataError, match="not a regular file"):
        read_tensors(tmp_path / name)


def test_a_pickle_of_anything_else_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": pathlike}))
    with pytest.raises(WeightsError, match="nothing in it was run"):
        read_tensors(tmp_path / "a.pth")


def pathlike() -> None:
    """What a pickle would name."""
