"""One source in many annotation files: the records of all, in their order, scanned apart and by several processes."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Recipe, Source, Validation
from mmcore.data import many_files
from mmcore.data import spread as spread_module
from mmcore.data.entry import Opened, open_entry
from mmcore.data.formats.registry import Formats
from mmcore.data.records import Records
from mmcore.errors import DataError, MissingDataError, RecipeError

FORMATS = Formats.of()
CATEGORIES = [{"id": 3, "name": "cup"}, {"id": 7, "name": "plate"}]


class NoOptions(Recipe):
    """Of a family that understands none."""


def write(folder: Path, number: int, count: int, categories: list[dict[str, Any]] = CATEGORIES, **broken: Any) -> Path:
    path = folder / "parts" / f"part_{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    ids = [100 * number + i for i in range(count)]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in ids]
    objects = [
        {"id": i, "image_id": i, "category_id": 3 + 4 * (i % 2), "bbox": [1, 2, 3, 4 + number], "area": 12, **broken}
        for i in ids
    ]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path


def opened(root: Path, annotations: str | tuple[str, ...], **entry: Any) -> Opened[NoOptions]:
    source = Source(weight=1.0, format="COCO boxes", annotations=annotations, images="images", **entry)
    context = DataContext(root, root / "cache", "tiny", 0, None)
    return open_entry("parts", source, context, FORMATS, tasks=("detect",), options=NoOptions)


def alone(root: Path, number: int) -> Records:
    return Records(opened(root, f"parts/part_{number}.json").index())


@pytest.mark.parametrize(
    "annotations",
    ["parts/*.json", "parts/part_{0..2}.json", ("parts/part_0.json", "parts/part_1.json", "parts/part_2.json")],
)
def test_the_records_of_all_files_stand_in_the_order_of_the_files(tmp_path: Path, annotations: Any) -> None:
    for number, count in enumerate((3, 1, 4)):
        write(tmp_path, number, count)
    index = opened(tmp_path, annotations).index()
    assert [record.to_bytes() for record in Records(index)] == [
        record.to_bytes() for number in range(3) for record in alone(tmp_path, number)
    ]
    assert index.meta["categories"] == ["cup", "plate"]
    assert index.meta["num_annotations"] == 8
    assert index.column("num_objects").tolist() == [1] * 8
    assert opened(tmp_path, annotations, classes={"plate": "dish"}).index().meta["categories"] == ["dish", "cup"]


def test_several_processes_build_the_same(tmp_path: Path, monkeypatch) -> None:
    for number in range(3):
        write(tmp_path, number, 5)
    one = opened(tmp_path, "parts/*.json").index()
    whole = [one[number] for number in range(len(one))]
    (tmp_path / "cache").rename(tmp_path / "other")
    monkeypatch.setattr(many_files, "PARALLEL_FROM", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(spread_module, "ProcessPoolExecutor", _Travelling)
    several = opened(tmp_path, "parts/*.json").index()
    assert _Travelling.done == 3
    assert [several[number] for number in range(len(several))] == whole


class _Travelling:
    """An executor without processes: its jobs only travel as if to another one, which takes seconds to start."""

    done = 0

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __enter__(self) -> "_Travelling":
        return self

    def __exit__(self, *args: object) -> None: ...

    def submit(self, function, job) -> Future:
        type(self).done += 1
        future: Future = Future()
        future.set_result(function(pickle.loads(pickle.dumps(job))))
        return future


def test_a_bad_record_is_told_with_the_file_that_it_is_in(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    bad = write(tmp_path, 1, 2, bbox=[1, 2, -3, 4])
    records = Records(opened(tmp_path, "parts/*.json").index())
    assert records[1].id == 1
    with pytest.raises(DataError, match="negative side") as caught:
        records[2]
    assert str(caught.value.where).startswith(str(bad))
    assert [str(problem.where).startswith(str(bad)) for problem in records.problems()] == [True, True]


def test_another_file_in_the_place_of_one_makes_another_index(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    write(tmp_path, 1, 2)
    before = opened(tmp_path, "parts/*.json").index().fingerprint
    write(tmp_path, 1, 3)
    index = opened(tmp_path, "parts/*.json").index()
    assert index.fingerprint != before
    assert len(index) == 5
    assert opened(tmp_path, ("parts/part_1.json", "parts/part_0.json")).index().fingerprint != index.fingerprint


def test_files_that_know_other_categories_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    other = write(tmp_path, 1, 2, [{"id": 3, "name": "cup"}, {"id": 7, "name": "fork"}])
    with pytest.raises(DataError, match="different categories: only this one has fork; only the first has plate") as e:
        opened(tmp_path, "parts/*.json").index()
    assert str(other) in str(e.value.where)


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    write(tmp_path, 1, 1)
    context = DataContext(tmp_path, tmp_path / "cache", "tiny", 0, None)
    entry = Validation(format="COCO boxes", annotations="parts/*.json", images="images")
    with pytest.raises(RecipeError, match="a validation set has one annotation file"):
        open_entry("parts", entry, context, FORMATS, tasks=("detect",), options=NoOptions)
    with pytest.raises(MissingDataError, match=r"part_2\.json"):
        opened(tmp_path, "parts/part_{0..2}.json")
    with pytest.raises(MissingDataError, match="no such file"):
        opened(tmp_path, "parts/*.jsonl")


def test_processes_that_help_to_build_are_small() -> None:
    """Each imports what its parser is made of: torch would cost it seconds and half a gigabyte."""
    code = "import sys, mmcore.data.many_files, mmcore.data.formats.coco; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
