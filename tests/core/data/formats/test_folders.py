"""YOLO folders, Pascal VOC, ODVG and image folders as labelling tools write them, and what is told of bad lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.formats.imagefolder import FolderObjects
from mmcore.data.formats.odvg import Odvg
from mmcore.data.formats.registry import Formats
from mmcore.data.formats.voc import VocFolder
from mmcore.data.formats.yolo import YoloFolder
from mmcore.data.index import open_index
from mmcore.data.records import Record, Records
from mmcore.errors import DataError, MissingDataError
from PIL import Image

SIZE = (40, 80)
"""Height and width of every picture."""


def records(parser: Any, folder: Path) -> list[Record]:
    return list(Records(open_index(parser, folder / "cache"), keep_empty=True))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(path)
    return path


def yolo(root: Path, lines: str, *, data: str = "train: images\nnames: [cup, plate]\n") -> YoloFolder:
    picture(root / "images/a.jpg")
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels/a.txt").write_text(lines)
    (root / "data.yaml").write_text(data)
    return YoloFolder(root / "data.yaml", "train", True)


def test_yolo_boxes_and_polygons_become_pixels(tmp_path: Path) -> None:
    [record] = records(yolo(tmp_path, "1 0.5 0.5 0.25 0.5\r\n\r\n0 0 0 0.5 0 0.5 0.5\n"), tmp_path)
    box, polygon = record.objects
    assert (box.category, box.box_xywh, box.segmentation) == (1, (30.0, 10.0, 20.0, 20.0), None)
    assert (polygon.category, polygon.box_xywh) == (0, (0.0, 0.0, 40.0, 20.0))
    assert polygon.segmentation == [[0.0, 0.0, 40.0, 0.0, 40.0, 20.0]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.2", "3 numbers are neither"),
        ("0 0.5 0.5 0.2 0.2 0.9", "5 numbers are neither"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is not one of the 2"),
        ("cup 0.5 0.5 0.2 0.2", "is not a class and numbers"),
        ("0 320 240 50 50", "pixels outside"),
    ],
)
def test_a_bad_yolo_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    [record] = records(yolo(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n"), tmp_path)
    [defect] = [one for one in record.defects if one.fatal]
    assert defect.fatal
    assert defect.where == "label line 2"
    assert words in defect.message


def test_yolo_boxes_a_little_outside_are_cut_at_the_border(tmp_path: Path) -> None:
    [record] = records(yolo(tmp_path, "0 0.1 0.5 0.21 1.04\n"), tmp_path)
    assert [defect.field for defect in record.defects] == ["box among polygons"]
    [item] = record.objects
    assert item.box_xywh[:2] == (0.0, 0.0)
    assert item.box_xywh[3] == 40.0


def test_yolo_images_without_labels_have_no_objects_and_a_change_of_images_is_seen(tmp_path: Path) -> None:
    parser = yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n")
    before = open_index(parser, tmp_path / "cache").fingerprint
    picture(tmp_path / "images/b.png")
    assert [len(record.objects) for record in records(parser, tmp_path)] == [1, 0]
    assert open_index(parser, tmp_path / "cache").fingerprint != before


@pytest.mark.parametrize("entry", ["../train/images", "train/images", "./train/images", "train\\images"])
def test_roboflows_folders_are_found_beside_data_yaml(tmp_path: Path, entry: str) -> None:
    picture(tmp_path / "train/images/a.jpg")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(f"train: '{entry}'\nnc: 1\nnames: {{0: cup}}\n")
    [record] = records(YoloFolder(tmp_path / "data.yaml", "train", False), tmp_path)
    assert record.image == "train/images/a.jpg"
    assert len(record.objects) == 1


def test_yolo_folders_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/images/a.jpg")
    root = tmp_path / "set"
    root.mkdir()
    for entry in (tmp_path / "elsewhere/images", "../elsewhere/images"):
        (root / "data.yaml").write_text(f"train: {entry}\nnames: [cup]\n")
        with pytest.raises(MissingDataError, match=r"data\.yaml"):
            records(YoloFolder(root / "data.yaml", "train", False), tmp_path)
    with pytest.raises(MissingDataError, match=r"names no val(.|\n)*train"):
        records(YoloFolder(root / "data.yaml", "val", False), tmp_path)


VOC = """<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height></size>
<object><name>cup</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{right}</xmax>
<ymax>40</ymax></bndbox></object></annotation>"""


def voc(root: Path, *, beside: bool = False, content: str | None = None, **fields: Any) -> VocFolder:
    picture(root / ("a.jpg" if beside else "JPEGImages/a.jpg"))
    values = {"name": "a.jpg", "width": 80, "height": 40, "difficult": 0, "right": 80, **fields}
    file = root / ("a.xml" if beside else "Annotations/a.xml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(content or VOC.format(**values))
    return VocFolder(root, None, True)


@pytest.mark.parametrize("beside", [False, True])
def test_voc_counts_from_one(tmp_path: Path, beside: bool) -> None:
    [record] = records(voc(tmp_path, beside=beside), tmp_path)
    assert record.image == ("a.jpg" if beside else "JPEGImages/a.jpg")
    assert record.objects[0].box_xywh == (0.0, 0.0, 80.0, 40.0)
    [record] = records(VocFolder(tmp_path, None, False), tmp_path)
    assert record.objects[0].box_xywh == (1.0, 1.0, 79.0, 39.0)


def test_voc_difficult_objects_are_crowds_and_sizes_come_from_the_image_where_they_are_missing(tmp_path: Path) -> None:
    [record] = records(voc(tmp_path, difficult=1, width=0, height=0, name="C:\\shots\\a.jpg"), tmp_path)
    assert record.objects[0].crowd
    assert (record.height, record.width) == SIZE


@pytest.mark.parametrize(
    "content",
    ["<annotation>", "not xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "<other/>"],
)
def test_a_file_that_is_no_voc_is_one_bad_record(tmp_path: Path, content: str) -> None:
    [record] = records(voc(tmp_path, content=content), tmp_path)
    assert record.defects[0].fatal
    assert "not an XML file of VOC" in record.defects[0].message


def test_voc_splits_come_from_image_sets(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    assert len(records(VocFolder(tmp_path, "train", True), tmp_path)) == 1
    with pytest.raises(MissingDataError, match=r"no list 'trian'(.|\n)*train"):
        records(VocFolder(tmp_path, "trian", True), tmp_path)


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\ufeff" + "\r\n".join(json.dumps(value, ensure_ascii=False) for value in values), "utf-8")
    return path


def test_odvg_detection_and_grounding(tmp_path: Path) -> None:
    whole = {"filename": "a\\b.jpg", "height": 40, "width": 80}
    instances = [{"bbox": [1, 2, 11, 22], "label": 7, "category": "cup\u2028"}]
    file = lines(tmp_path / "d.json", {**whole, "detection": {"instances": instances}}, whole)
    first, second = records(Odvg(file, "detection"), tmp_path)
    assert (first.image, first.objects[0].category, first.objects[0].box_xywh) == ("a/b.jpg", 0, (1.0, 2.0, 10.0, 20.0))
    assert not second.objects
    regions = [{"bbox": [[0, 0, 5, 5], [5, 5, 9, 9]], "phrase": ["a cup", "cup"]}, {"bbox": [0, 0, 1, 1], "phrase": ""}]
    file = lines(tmp_path / "g.jsonl", {**whole, "grounding": {"caption": "a cup", "regions": regions}})
    [record] = records(Odvg(file, "grounding"), tmp_path)
    assert record.phrases == ("a cup", "a cup")
    assert [defect.where for defect in record.defects] == ["region 2"]


def test_odvg_labels_without_categories_need_names(tmp_path: Path) -> None:
    whole = {"filename": "a.jpg", "height": 40, "width": 80}
    file = lines(tmp_path / "d.jsonl", {**whole, "detection": {"instances": [{"bbox": [1, 2, 11, 22], "label": 1}]}})
    with pytest.raises(DataError, match="names"):
        records(Odvg(file, "detection"), tmp_path)
    [record] = records(Odvg(file, "detection", ("cup", "plate")), tmp_path)
    assert record.objects[0].category == 1


def test_image_folders_name_categories_by_word_or_number(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found = {"bbox": [[1, 2, 10, 20], [0, 0, 4, 4]], "categories": [5, 2]}
    lines(tmp_path / "metadata.jsonl", {"file_name": "a.jpg", "objects": found}, {"file_name": "gone.jpg"})
    first, second = records(FolderObjects(tmp_path), tmp_path)
    assert [item.category for item in first.objects] == [1, 0]
    assert "missing" in second.defects[0].message
    [record, _] = records(FolderObjects(tmp_path, ("a", "b", "c")), tmp_path)
    assert record.defects[0].message == "5 is not among the names"
    assert Formats.of().recognise(tmp_path).name == "image folder objects"
