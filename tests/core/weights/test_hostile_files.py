"""Weights files that lie about themselves are refused before they cost time or memory."""

import contextlib
import json
import os
import pickle
import random
import time
import zipfile
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.eye(3).to_sparse_coo(), "sparse"),
        (lambda: torch.empty(10**12, device="meta"), "without values"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "complex"),
    ],
)
def test_a_tensor_that_is_no_plain_one_is_refused(tmp_path: Path, make: Callable[[], torch.Tensor], kind: str) -> None:
    torch.save({"model": {"bias": torch.zeros(3), "weight": make()}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"tensor weight is {kind}"):
        read_tensors(tmp_path / "a.pth")


def nested(kind: type, times: int) -> object:
    inner: object = torch.zeros(1)
    for _ in range(times):
        inner = {"model": inner, "other": inner} if kind is dict else [inner, inner]
    return inner


@pytest.mark.parametrize("kind", [dict, list])
def test_few_bytes_that_stand_for_a_huge_tree_end_at_once(tmp_path: Path, kind: type) -> None:
    torch.save({"model": nested(kind, 60)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    start = time.process_time()
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "a.pth")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_refused_or_gives_tensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    tensors = {"weight": torch.randn(4), "bias": torch.randn(2)}
    if kind == "safetensors":
        write_safetensors(tensors, tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        torch.save(tensors | {"epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")  # type: ignore[arg-type]
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
        with contextlib.suppress(WeightsError, UnsafeDataError):
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_tensors(path).values())


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
