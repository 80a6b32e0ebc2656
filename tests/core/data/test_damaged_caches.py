"""Whatever happens to a file of a cache or an index: nothing wrong is read from it, and the same command mends it."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmcore.data import index_files
from mmcore.data.cache.check import verify
from mmcore.data.cache.features import CacheJob, FeatureCache
from mmcore.data.demo.write import Writer, write_once
from mmcore.data.index import open_index
from mmcore.errors import CacheError, DataError, MissingDataError

from .damages import DAMAGES
from .test_cache import COUNT, Bytes, make_job, network, run
from .test_index import lines_file


def refusal_of(call: Callable[[], object]) -> str | None:
    """What is told where something lies in the way that only its owner may take away."""
    try:
        call()
    except (CacheError, DataError, OSError) as told:
        return str(told)
    return None


def take_away(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> CacheJob:
    """A cache that was filled, opened once and has an image that cannot be read."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "images").mkdir()
    for number in range(COUNT):
        (folder / "images" / f"{number:02d}.jpg").write_bytes(f"image {number:02d}".encode())
    (folder / "images" / "zz.jpg").write_bytes(b"bad")
    job = make_job(folder)
    run(job)
    FeatureCache(job.folder)
    return job


@pytest.mark.parametrize(
    "name", ["cache.json", "index.npy", "verified.json", "bad.jsonl", "shard-00001.json", "shard-00001.safetensors"]
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cache_gives_its_values_or_an_error_and_is_mended(
    finished: CacheJob, tmp_path: Path, name: str, damage: str
) -> None:
    shutil.copytree(finished.folder, tmp_path / "cache")
    job = replace(finished, folder=tmp_path / "cache")
    DAMAGES[damage](job.folder / name)
    good = [item for item in job.items() if item.path.stem != "zz"]

    def values_are_right() -> bool:
        cache = FeatureCache(job.folder)
        for item in good[:: COUNT // 5]:
            found, wanted = cache.read(item.key, item.path), network({"bytes": Bytes()(item.path)["bytes"][None]})
            assert all(np.array_equal(found[key], wanted[key][0].numpy().astype(np.float16)) for key in wanted)
        return True

    with contextlib.suppress(CacheError, MissingDataError):
        assert values_are_right()
        if name.startswith("shard"):
            assert verify(job, job.folder)
    if (told := refusal_of(lambda: run(job))) is not None:
        assert str(job.folder) in told
        take_away(job.folder / name)  # as it says
        run(job)
    assert values_are_right()
    assert verify(job, job.folder) == []


@pytest.mark.parametrize("name", ["index.json", "offsets.bin", "records.bin", "width.npy", "has_mask.npy", "hashes"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_gives_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str) -> None:
    path = lines_file(tmp_path)
    monkeypatch.setattr(index_files.time, "time_ns", lambda: 1 << 62)  # the file is old: its hash is remembered
    folder = open_index(path, tmp_path / "cache").folder
    remembered = tmp_path / "cache" / "hashes"
    for target in remembered.iterdir() if name == "hashes" else [folder / name]:
        DAMAGES[damage](target)
    again = open_index(path, tmp_path / "cache")
    assert [again[number] for number in range(len(again))] == [b"one", b"two", b"", b"four"]
    assert again.column("width").tolist() == [3, 3, 0, 4]


@pytest.mark.parametrize("name", ["mmcore-demo.json", "a.json", "pictures/1.jpg"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_sample_data_is_written_again_or_the_place_in_the_way_is_named(tmp_path: Path, name: str, damage: str) -> None:
    def write(folder: Path) -> dict[str, str]:
        out = Writer(folder)
        out.put_json("a.json", [1, 2])
        out.put("pictures/1.jpg", b"a picture")
        return out.files

    root = write_once(tmp_path / "demo", {"n": 1}, write)
    DAMAGES[damage](root / name)
    if (told := refusal_of(lambda: write_once(root, {"n": 1}, write))) is not None:
        assert str(root) in told
        take_away(root / name)
        write_once(root, {"n": 1}, write)
    assert (root / "a.json").read_bytes() == b"[1,2]"
    assert (root / "pictures/1.jpg").read_bytes() == b"a picture"
