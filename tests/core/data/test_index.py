"""An index is built once, whole or not at all, by whoever comes first; reading needs no memory to speak of."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data import index as index_module
from mmcore.data import index_files
from mmcore.data import spread as spread_module
from mmcore.data.index import Prepared, Report, file_sha256, open_index
from mmcore.errors import CacheError, DataError, MissingDataError


@dataclass(frozen=True)
class Lines:
    """One record per line of a text file."""

    path: Path
    upper: bool = False

    @property
    def format(self) -> str:
        return "lines/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"upper": self.upper}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        lines = self.path.read_text().splitlines()
        if "bad" in lines:
            raise DataError("a bad line", where=self.path)
        with open(self.path.with_name("builds"), "a") as file:
            file.write("x")
        return Prepared(len(lines), {"words": len(lines)})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        for line in self.path.read_text().splitlines()[start:stop]:
            text = line.upper() if self.upper else line
            yield text.encode(), {"width": len(text), "height": 1, "num_objects": int("o" in line), **NO_MORE}


def lines_file(folder: Path, text: str = "one\ntwo\n\nfour") -> Lines:
    path = folder / "words.txt"
    path.write_text(text)
    return Lines(path)


def num_builds(parser: Lines) -> int:
    return len(parser.path.with_name("builds").read_text())


def test_records_and_columns_come_back_in_order(tmp_path):
    index = open_index(lines_file(tmp_path), tmp_path / "cache")
    assert [index[number] for number in range(len(index))] == [b"one", b"two", b"", b"four"]
    assert index.column("width").tolist() == [3, 3, 0, 4]
    assert index.column("num_objects").tolist() == [1, 1, 0, 1]
    assert index.meta == {"words": 4}
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            index[outside]


def test_an_unchanged_file_is_not_parsed_again(tmp_path):
    parser = lines_file(tmp_path)
    first = open_index(parser, tmp_path / "cache")
    assert open_index(parser, tmp_path / "cache").fingerprint == first.fingerprint
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    copy = lines_file(moved)
    assert open_index(copy, tmp_path / "cache").folder == first.folder
    assert num_builds(parser) == 1


def test_a_changed_file_or_option_gives_another_index(tmp_path):
    parser = lines_file(tmp_path)
    first = open_index(parser, tmp_path / "cache")
    status = parser.path.stat()
    parser.path.write_text("one\ntwo\n\nfive")
    os.utime(parser.path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time of change
    changed = open_index(parser, tmp_path / "cache")
    assert changed.fingerprint != first.fingerprint
    assert changed[3] == b"five"
    assert open_index(Lines(parser.path, upper=True), tmp_path / "cache")[0] == b"ONE"


def test_a_new_layout_is_built_beside_the_old_one_and_is_no_other_data(tmp_path: Path, monkeypatch) -> None:
    parser = lines_file(tmp_path)
    old = open_index(parser, tmp_path / "cache")
    monkeypatch.setattr(index_module, "VERSION", index_module.VERSION + 1)
    new = open_index(parser, tmp_path / "cache")
    assert new.folder != old.folder
    assert list(new) == list(old)
    assert new.fingerprint == old.fingerprint, "a run would be told that its data has changed"


def test_the_hash_of_an_old_file_is_remembered(tmp_path, monkeypatch):
    path = lines_file(tmp_path).path
    long_ago = time.time_ns() - 10**11
    monkeypatch.setattr(index_files.time, "time_ns", lambda: long_ago + 2 * 10**11)
    digest = file_sha256(path, tmp_path / "cache")
    monkeypatch.setattr(index_files.hashlib, "file_digest", None)  # would fail if the file were read
    assert file_sha256(path, tmp_path / "cache") == digest


def test_an_empty_file_has_an_empty_index(tmp_path):
    assert len(open_index(lines_file(tmp_path, ""), tmp_path / "cache")) == 0


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(MissingDataError, match="annotation file not found") as error:
        open_index(Lines(tmp_path / "none.txt"), tmp_path / "cache")
    assert "--data" in str(error.value)


def test_a_pipe_in_the_place_of_annotations_is_not_waited_for(tmp_path):
    parser = lines_file(tmp_path)
    [path] = parser.files
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        open_index(parser, tmp_path / "cache")


def test_a_failed_build_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="a bad line"):
        open_index(lines_file(tmp_path, "one\nbad"), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").glob("lines*")] == [".lock"]


def test_an_index_travels_to_other_processes_and_opens_there(tmp_path):
    index = open_index(lines_file(tmp_path), tmp_path / "cache")
    assert index[0] == b"one"
    copy = pickle.loads(pickle.dumps(index))
    assert copy._files is None
    assert copy[3] == b"four"
    index.close()
    assert index[1] == b"two"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("offsets.bin", lambda content: content[:10]),
        ("records.bin", lambda content: content[:4]),
        ("records.bin", lambda content: bytes([content[0] ^ 1]) + content[1:]),
        ("width.npy", lambda content: content[:-1] + b"\x07"),
        ("width.npy", lambda content: pickle.dumps([1, 2])),
        ("width.npy", None),
        ("index.json", lambda content: content.replace(b'"num_records": 4', b'"num_records": 3')),
        ("index.json", lambda content: b"[" * 100_000),
        ("index.json", lambda content: b"\xff\xfe"),
    ],
)
def test_an_index_that_was_damaged_is_built_again_with_a_line(tmp_path, capsys, name, damage):
    path = lines_file(tmp_path)
    whole = open_index(path, tmp_path / "cache")
    expected = [whole[number] for number in range(len(whole))]
    target = whole.folder / name
    if damage is None:
        target.unlink()
    else:
        changed = damage(target.read_bytes())
        assert changed != target.read_bytes()
        target.write_bytes(changed)
    again = open_index(path, tmp_path / "cache")
    assert "was damaged" in capsys.readouterr().err
    assert [again[number] for number in range(len(again))] == expected
    assert len(again.column("width")) == len(expected)
    open_index(path, tmp_path / "cache")
    assert "was damaged" not in capsys.readouterr().err


def test_damage_met_while_reading_is_no_bad_sample(tmp_path):
    index = open_index(lines_file(tmp_path), tmp_path / "cache")
    with open(index.folder / "records.bin", "r+b") as file:
        file.truncate(4)
    assert index[0] == b"one"
    with pytest.raises(CacheError, match="damaged") as error:
        index[3]
    assert not isinstance(error.value, DataError)  # which a policy might skip
    assert str(index.folder) in str(error.value)


def test_parts_written_by_several_processes_are_joined_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "PARALLEL_FROM", 10)
    parser = lines_file(tmp_path, "\n".join(map(str, range(100))))
    monkeypatch.setattr(spread_module, "ProcessPoolExecutor", _InThisProcess)
    index = open_index(parser, tmp_path / "cache", workers=2)
    assert [int(index[number]) for number in range(100)] == list(range(100))
    assert index.column("width").tolist() == [len(str(number)) for number in range(100)]


def test_a_script_without_a_main_guard_gets_its_index_and_a_line(tmp_path):
    """Its helpers run the script once more and would wait for the lock of their own parent."""
    (tmp_path / "names.jsonl").write_text("".join(f'{{"file_name": "{n}.jpg", "text": "a"}}\n' for n in range(20)))
    (tmp_path / "script.py").write_text(
        "import sys\nfrom pathlib import Path\nimport mmcore.data.index as index\n"
        "from mmcore.data.formats.llava import LlavaParser\nindex.PARALLEL_FROM = 2\n"
        "print(len(index.open_index(LlavaParser(Path('names.jsonl')), Path('cache'), workers=2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "20\n"
    assert "__main__" in done.stderr
    assert "Traceback" not in done.stderr


NO_MORE = {"has_mask": 0, "num_defects": 0}


class _InThisProcess:
    """An executor without processes: what is joined is of interest here, not who wrote it."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __enter__(self) -> "_InThisProcess":
        return self

    def __exit__(self, *args: object) -> None: ...

    def submit(self, function, *args):
        from concurrent.futures import Future

        future: Future = Future()
        future.set_result(function(*args))
        return future


def _open_many(path: str, cache: str, results) -> None:
    results.put(len(open_index(Lines(Path(path)), Path(cache))))


def test_processes_that_ask_at_once_build_once(tmp_path):
    parser = lines_file(tmp_path)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_open_many, args=(str(parser.path), str(tmp_path / "cache"), results)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=30) for _ in workers] == [4, 4, 4, 4]
    for worker in workers:
        worker.join(30)
    results.close()
    assert num_builds(parser) == 1


def test_a_killed_builder_leaves_nothing_in_the_way(tmp_path):
    path = tmp_path / "instances.json"
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 10} for i in range(20_000)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mmcore.data.formats.coco import CocoInstances
        from mmcore.data.index import open_index
        def report(doing, share):
            print(doing, flush=True)
        open_index(CocoInstances(Path(sys.argv[1])), Path(sys.argv[2]), report=report)
        """
    )
    cache = tmp_path / "cache"
    for stage in ("scanning", "writing"):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(cache)], stdout=subprocess.PIPE, text=True
        ) as builder:
            for line in builder.stdout:
                if line.startswith(stage):
                    builder.send_signal(signal.SIGKILL)
                    break
        assert builder.returncode == -signal.SIGKILL
        assert list(cache.glob("*.building-*"))
        assert not list(cache.glob("*/index.json"))
    from mmcore.data.formats.coco import CocoInstances

    assert len(open_index(CocoInstances(path), cache)) == 20_000
    assert not list(cache.glob("*.building-*"))


def test_a_cache_that_cannot_be_written_is_explained(tmp_path):
    parser = lines_file(tmp_path)
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match="cannot be written") as error:
        open_index(parser, tmp_path / "cache")
    assert "MMCORE_CACHE" in str(error.value)


def test_columns_are_mapped_and_not_read(tmp_path):
    index = open_index(lines_file(tmp_path), tmp_path / "cache")
    assert isinstance(index.column("width"), np.memmap)
