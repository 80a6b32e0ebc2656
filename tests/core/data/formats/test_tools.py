"""Annotations as labelling tools write them: where they put pictures, and the spellings of what they mean."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.registry import Formats
from mmcore.data.images import safe_join
from mmcore.data.index import open_index
from mmcore.data.own import describe
from mmcore.data.records import Records
from mmcore.errors import DataError
from PIL import Image

SQUARE = [10, 10, 40, 10, 40, 40, 10, 40]
POINTS = [[10, 10], [40, 10], [40, 40], [10, 40]]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco(*annotations: dict[str, Any], file: str = "a.png", **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": file, "width": 96, "height": 64, **image}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"image_id": 1, "category_id": 1, **annotation} for annotation in annotations],
    }


def records(folder: Path, content: dict[str, Any]) -> Records:
    write(folder / "a.json", content)
    return Records(open_index(CocoInstances(folder / "a.json"), folder / "cache"), keep_empty=True)


BOX = {"id": 7, "bbox": [10, 10, 30, 30]}


@pytest.mark.parametrize(
    "spelling",
    [[SQUARE], SQUARE, POINTS, [POINTS], [[SQUARE]], [[POINTS]], [[{"x": x, "y": y} for x, y in POINTS]]],
    ids=["coco", "flat", "points", "list of points", "nested", "points nested", "x and y"],
)
def test_every_spelling_of_a_polygon_is_that_polygon(tmp_path: Path, spelling: Any) -> None:
    [item] = records(tmp_path, coco({**BOX, "segmentation": spelling}))[0].objects
    assert item.segmentation == [SQUARE]


def test_two_polygons_stay_two_and_what_is_no_polygon_is_told(tmp_path: Path) -> None:
    two = records(tmp_path / "two", coco({**BOX, "segmentation": [SQUARE, [50, 10, 60, 10, 60, 20]]}))
    assert two[0].objects[0].segmentation == [SQUARE, [50, 10, 60, 10, 60, 20]]
    for number, wrong in enumerate(([10, 10, 30, 30], [["a"] * 6], ["text"], [[[[[[SQUARE]]]]]])):
        told = records(tmp_path / str(number), coco({**BOX, "segmentation": wrong}))
        assert any(defect.field == "segmentation" for defect in told.peek(0).defects), wrong


def test_ids_that_nobody_gave_are_ours(tmp_path: Path) -> None:
    found = records(tmp_path, coco({"bbox": [1, 1, 5, 5]}, {"bbox": [2, 2, 6, 6], "id": None}))
    assert [item.box_xywh for item in found[0].objects] == [(1, 1, 5, 5), (2, 2, 6, 6)]
    with pytest.raises(DataError, match="occurs more than once"):
        records(tmp_path / "twice", coco(BOX, BOX))


def test_a_polygon_without_a_box_says_where_it_is(tmp_path: Path) -> None:
    content = coco({"id": 1, "segmentation": [[10, 10, 40, 10, 40, 40], [50, 5, 60, 5, 60, 20]]})
    [item] = records(tmp_path, content)[0].objects
    assert item.box_xywh == (10, 5, 50, 35)
    assert Formats.of().recognise(tmp_path / "a.json").name == "COCO instances"


def test_a_picture_of_no_size_says_only_that(tmp_path: Path) -> None:
    told = [defect.field for defect in records(tmp_path, coco(BOX, width=None, height=0)).peek(0).defects]
    assert told == ["height", "width"]


VOC = (
    "<annotation><filename>a.png</filename><size><width>96</width><height>64</height></size><object><name>cup</name>"
    "<bndbox><xmin>10.5</xmin><ymin>10</ymin><xmax>40.25</xmax><ymax>40</ymax></bndbox></object></annotation>"
)
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CVAT, COCO": ("annotations/instances_default.json", "images/default/a.png", {}),
    "COCO": ("annotations/instances_train2017.json", "train2017/a.png", {}),
    "FiftyOne": ("labels.json", "data/a.png", {}),
    "Label Studio": ("result.json", "images/a.png", {}),
    "Roboflow": ("train/_annotations.coco.json", "train/a.png", {}),
    "VOC": ("Annotations", "JPEGImages/a.png", {"Annotations/a.xml": VOC}),
    "CVAT, YOLO": (
        "data.yaml",
        "images/train/a.png",
        {
            "data.yaml": "path: ./\ntrain: train.txt\nnames: {0: cup}\n",
            "train.txt": "data/images/train/a.png\n",
            "labels/train/a.txt": "0 0.5 0.5 0.2 0.2\n",
        },
    ),
}


@pytest.mark.parametrize("tool", FILES)
def test_pictures_are_found_where_tools_put_them(tmp_path: Path, tool: str) -> None:
    annotations, image, files = FILES[tool]
    picture(tmp_path / image)
    for name, content in (files or {annotations: coco(BOX)}).items():
        write(tmp_path / name, content)
    (tmp_path / "own.yaml").write_text(f"name: cups\ntrain: {{annotations: {annotations}}}\n")
    [part] = describe(tmp_path / "own.yaml", Formats.of()).train
    index = part.index(tmp_path / "cache")
    assert index is not None
    record = Records(index)[0]
    assert safe_join(part.root / part.images, record.image).samefile(tmp_path / image)
    assert len(record.objects) == 1


def utf16(path: Path) -> None:
    path.write_bytes(json.dumps(coco(BOX)).encode("utf-16"))


def alpaca(path: Path) -> None:
    write(path, [{"instruction": "What?", "input": "", "output": "A cup."}])


@pytest.mark.parametrize(
    ("make", "words"),
    [(utf16, "text in UTF-16"), (alpaca, "a JSON list whose records have instruction, input, output")],
)
def test_what_is_no_known_format_is_described(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(DataError, match=words):
        Formats.of().recognise(tmp_path / "a.json")
