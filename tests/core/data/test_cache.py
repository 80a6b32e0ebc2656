"""Caches of what frozen networks say: whole, resumable, checked, and read row by row."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore.data.cache import features as reading
from mmcore.data.cache import fill as cache_fill
from mmcore.data.cache import survey as cache_survey
from mmcore.data.cache.check import verify
from mmcore.data.cache.features import CacheJob, FeatureCache, Field, Item, describe
from mmcore.data.cache.fill import fill
from mmcore.data.cache.shards import only_writer
from mmcore.data.cache.survey import survey
from mmcore.errors import CacheError, DataError, MissingDataError

COUNT = 23


class Bytes:
    """Reads an image: its first eight bytes."""

    def __call__(self, path: Path) -> dict[str, torch.Tensor]:
        content = path.read_bytes()
        if content.startswith(b"bad"):
            raise DataError("cannot be decoded", where=path)
        return {"bytes": torch.tensor(list(content[:8].ljust(8)))}


def network(inputs):
    """A map and a vector of each image."""
    values = inputs["bytes"].float()
    return {"map": values.reshape(-1, 2, 2, 2) / 3, "vector": values[:, :3] * 7}


def make_job(folder: Path, *, dtype: str = "fp16", identity=None, make=network) -> CacheJob:
    paths = sorted((folder / "images").glob("*"))
    return CacheJob(
        folder=folder / "cache",
        fields={"map": Field((2, 2, 2), dtype), "vector": Field((3,), dtype)},
        identity=identity or {"network": {"name": "toy", "files": {"toy.bin": "1234"}}},
        covers={"toy": "records"},
        items=lambda: [Item(path.name, path) for path in paths for _ in range(2)],
        read=Bytes(),
        make=lambda device: make,
    )


def run(job: CacheJob, **options) -> cache_fill.Filled:
    return fill(job, job.folder, **{"batch": 4, "workers": 0, "shard_bytes": 5 * job.row_bytes, **options})


@pytest.fixture
def job(tmp_path: Path) -> CacheJob:
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        (tmp_path / "images" / f"{number:02d}.jpg").write_bytes(f"image {number:02d}".encode())
    return make_job(tmp_path)


def expected(job: CacheJob, key: str) -> dict[str, np.ndarray]:
    path = job.folder.parent / "images" / key
    made = network({"bytes": Bytes()(path)["bytes"][None]})
    kind = reading.DTYPES[job.fields["map"].dtype]
    return {name: value[0].numpy().astype(kind) for name, value in made.items()}


def check_all(job: CacheJob, cache: FeatureCache) -> None:
    for item in job.items():
        found = cache.read(item.key, item.path)
        for name, value in expected(job, item.key).items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_every_image_reads_back_as_it_was_made(job, dtype, workers):
    job = make_job(job.folder.parent, dtype=dtype)
    filled = run(job, workers=workers)
    assert filled == (COUNT, 0, COUNT, 5)
    check_all(job, FeatureCache(job.folder))
    assert verify(job, job.folder) == []


def test_a_reader_travels_to_workers_and_keeps_few_shards_open(job, monkeypatch):
    run(job)
    monkeypatch.setattr(reading, "OPEN_SHARDS", 2)
    cache = FeatureCache(job.folder)
    check_all(job, cache)
    assert len(cache._open) == 2
    check_all(job, pickle.loads(pickle.dumps(cache)))


def test_a_second_run_makes_nothing_and_a_grown_data_set_only_what_grew(job):
    run(job)
    assert run(job).made == 0
    (job.folder.parent / "images" / "99.jpg").write_bytes(b"image 99")
    grown = make_job(job.folder.parent)
    assert survey(grown, job.folder).needed_bytes == job.row_bytes
    assert run(grown).made == 1
    check_all(grown, FeatureCache(job.folder))


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_cache import make_job, network, run

def slow(inputs):
    time.sleep(0.05)
    return network(inputs)

job = make_job(Path(sys.argv[1]), make=slow)
print("ready", flush=True)
run(job)
"""


def test_a_killed_writer_loses_one_shard_at_most(job):
    script = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(job.folder.parent), str(Path(__file__).parent)]
    process = subprocess.Popen(script)
    deadline = time.monotonic() + 60
    while not (job.folder / "shard-00001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in job.folder.glob("shard-*.json")}
    assert 2 <= len(finished) < 5, "the kill came too late to test anything"
    with pytest.raises(MissingDataError, match="never finished"):
        FeatureCache(job.folder)
    filled = run(job)
    assert filled.made == COUNT - 5 * len(finished)
    assert filled.verified == 5, "shards of the killed run are verified as well"
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    check_all(job, FeatureCache(job.folder))
    assert verify(job, job.folder) == []
    assert not list(job.folder.glob(".writing*"))


def test_a_shard_without_its_record_does_not_count(job):
    run(job)
    (job.folder / "shard-00004.json").unlink()
    assert survey(job, job.folder).kept == 20
    assert run(job).made == 3
    check_all(job, FeatureCache(job.folder))


def test_an_error_in_the_middle_keeps_what_was_computed(job):
    calls = []

    def breaks(inputs):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return network(inputs)

    broken = make_job(job.folder.parent, make=breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(broken)
    assert survey(job, job.folder).kept == 12


def test_a_changed_image_is_refused_found_and_made_again(job):
    run(job)
    path = job.folder.parent / "images" / "07.jpg"
    path.write_bytes(b"another!")
    cache = FeatureCache(job.folder)
    with pytest.raises(DataError, match="has changed since") as error:
        cache.read("07.jpg", path)
    assert str(path) in str(error.value)
    assert verify(job, job.folder) == ["image 07.jpg has changed since its targets were cached"]
    assert survey(job, job.folder).changed == 1
    assert run(job).made == 1
    check_all(job, FeatureCache(job.folder))
    assert verify(job, job.folder) == []


def test_an_image_that_was_only_touched_stays(job):
    run(job)
    path = job.folder.parent / "images" / "07.jpg"
    os.utime(path, (1, 1))
    assert survey(job, job.folder).kept == COUNT


def test_another_network_is_refused_by_the_entry_that_differs(job):
    run(job)
    other = make_job(job.folder.parent, identity={"network": {"name": "toy", "files": {"toy.bin": "9999"}}})
    with pytest.raises(DataError, match=r"network.files.toy.bin: 1234 instead of 9999"):
        run(other)
    assert verify(other, job.folder) == ["made by something else: network.files.toy.bin: 1234 instead of 9999"]


def test_a_flipped_byte_is_found_by_its_checksum(job):
    run(job)
    path = job.folder / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert verify(job, job.folder) == ["shard shard-00002.safetensors is damaged: its checksum differs"]


def test_a_shard_cut_short_is_an_error_and_made_again(job):
    run(job)
    path = job.folder / "shard-00002.safetensors"
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(CacheError, match=r"has [0-9,]+ bytes instead of"):
        FeatureCache(job.folder)
    assert run(job).made == 5
    check_all(job, FeatureCache(job.folder))
    assert verify(job, job.folder) == []


def test_a_shard_damaged_before_it_was_verified_is_refused_and_then_made_again(job, monkeypatch):
    write = cache_fill.write_shard

    def writes_badly(folder, number, *rest):
        write(folder, number, *rest)
        if number == 1:
            path = reading.shard_path(folder, number)
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    monkeypatch.setattr(cache_fill, "write_shard", writes_badly)
    with pytest.raises(CacheError, match="checksum differs"):
        run(job)
    monkeypatch.undo()
    assert run(job).made == 5
    assert verify(job, job.folder) == []


def test_a_damaged_index_is_an_error_and_found(job):
    run(job)
    (job.folder / "index.npy").write_bytes(b"nothing")
    with pytest.raises(CacheError, match=r"index\.npy has 7 bytes"):
        FeatureCache(job.folder)
    assert verify(job, job.folder)[0].startswith("the index of the cache is damaged")


@pytest.mark.parametrize("name", ["index.npy", "shard-00000.safetensors", "shard-00004.safetensors", "cache.json"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.95])
def test_a_single_flipped_bit_is_seen_when_the_cache_is_opened(job, name, where):
    run(job)
    FeatureCache(job.folder)  # what was verified once is known as it was then
    path = job.folder / name
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(CacheError):
        FeatureCache(job.folder)
    with contextlib.suppress(CacheError):
        assert verify(job, job.folder)


def test_damage_met_while_reading_is_no_bad_sample(job):
    run(job)
    cache = FeatureCache(job.folder)
    for path in job.folder.glob("shard-*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CacheError, match=r"cut short|damaged") as caught:
        [cache.read(f"{number:02d}.jpg") for number in range(COUNT)]
    assert not isinstance(caught.value, DataError)  # which a policy might skip


def test_what_was_verified_and_not_touched_is_not_read_again(job, monkeypatch):
    run(job)
    FeatureCache(job.folder)
    monkeypatch.setattr(reading, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    FeatureCache(job.folder)


def test_an_image_that_is_not_there_is_named(job):
    run(job)
    with pytest.raises(MissingDataError, match=r"nothing for image 'x\.jpg'"):
        FeatureCache(job.folder).read("x.jpg")


def test_a_folder_without_a_cache_says_how_to_make_one(tmp_path):
    with pytest.raises(MissingDataError, match="no cache here"):
        FeatureCache(tmp_path)


def test_a_description_of_another_kind_is_refused(job):
    run(job)
    told = describe(job.folder)
    (job.folder / "cache.json").write_text(json.dumps({**told, "version": 99}))
    with pytest.raises(CacheError, match="version 99, not 1"):
        FeatureCache(job.folder)


def test_a_disk_too_small_is_said_before_anything_is_written(job, monkeypatch):
    monkeypatch.setattr(cache_survey.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"needs 506 B more \(23 images, 22 B each\); the disk has 100 B free"):
        run(job)
    assert not list(job.folder.glob("*shard*"))


def test_images_that_cannot_be_read_are_listed_and_left_out(job):
    path = job.folder.parent / "images" / "03.jpg"
    path.write_bytes(b"bad")
    filled = run(job)
    assert (filled.made, filled.bad) == (COUNT - 1, 1)
    listed = [json.loads(line) for line in (job.folder / "bad.jsonl").read_text().splitlines()]
    assert listed == [{"key": "03.jpg", "what": "cannot be decoded", "where": str(path)}]
    assert verify(job, job.folder) == []
    with pytest.raises(DataError, match="1 images cannot be read"):
        run(job, stop_at_bad=True)


def test_a_value_beyond_half_precision_is_refused(job):
    huge = make_job(job.folder.parent, make=lambda inputs: {n: v * 1e6 for n, v in network(inputs).items()})
    with pytest.raises(DataError, match="map is not finite in fp16") as error:
        run(huge)
    assert "--dtype fp32" in str(error.value)


def test_two_writers_do_not_meet(job):
    job.folder.mkdir()
    with only_writer(job.folder), pytest.raises(DataError, match=f"process {os.getpid()} is writing this cache"):
        run(job)


def test_no_images_at_all_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="name no images"):
        run(make_job(tmp_path))
