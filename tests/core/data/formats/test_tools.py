"""Annotations as labelling tools write them: where they put pictures, and the spellings of what they mean."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mmcore.contract.protocols import DataSource
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.registry import Formats
from mmcore.data.images import safe_join
from mmcore.data.index import open_index
from mmcore.data.own import Part, describe
from mmcore.data.records import TOLD, Records, told_left_out, told_read_anyway
from mmcore.errors import DataError, UnsafeDataError
from mmcore.evaluate.ground_truth import as_coco, ground_truth_mask, read_annotations
from mmcore.geometry import masks
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


def preferences(path: Path) -> None:
    write(path, [{"prompt": "What?", "chosen": "A cup.", "rejected": "A mug."}])


@pytest.mark.parametrize(
    ("make", "words"),
    [(utf16, "text in UTF-16"), (preferences, "a JSON list whose records have prompt, chosen, rejected")],
)
def test_what_is_no_known_format_is_described(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(DataError, match=words):
        Formats.of().recognise(tmp_path / "a.json")


def rle() -> dict[str, Any]:
    """A square, as run lengths down the columns of a 96x64 picture."""
    bitmap = np.zeros((64, 96), np.uint8)
    bitmap[10:40, 10:40] = 1
    flat = bitmap.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [64, 96], "counts": np.diff([0, *edges, len(flat)]).tolist()}


RUNS, PACKED = rle(), masks.compress(rle())["counts"]
SPELT = {
    "numbers": RUNS,
    "compressed": {"size": [64, 96], "counts": PACKED},
    "floats": {"size": [64.0, 96.0], "counts": [float(one) for one in RUNS["counts"]]},
    "numbers as text": {"size": ["64", "96"], "counts": [str(one) for one in RUNS["counts"]]},
    "a list in text": {"size": "[64, 96]", "counts": str(RUNS["counts"])},
    "blanks": {"size": "64 96", "counts": " ".join(map(str, RUNS["counts"]))},
    "str of bytes": {"size": [64, 96], "counts": str(PACKED.encode())},
    "JSON in text": json.dumps({"size": [64, 96], "counts": PACKED}),
    "a literal in text": str({"size": [64, 96], "counts": PACKED}),
    "alone in a list": [RUNS],
}


@pytest.mark.parametrize("spelling", SPELT)
def test_every_spelling_of_run_lengths_is_that_mask(tmp_path: Path, spelling: str) -> None:
    content = coco({**BOX, "segmentation": SPELT[spelling]})
    [item] = records(tmp_path, content)[0].objects
    assert item.segmentation == {"size": [64, 96], "counts": PACKED}
    [judged] = read_annotations(tmp_path / "a.json")["annotations"]
    assert ground_truth_mask(judged, 64, 96, tmp_path / "a.json") == item.segmentation


@pytest.mark.parametrize("text", ["1, 2, many", "[[1, 2", "1 2 3", "b'?'"])
def test_text_that_is_no_run_lengths_is_told(tmp_path: Path, text: str) -> None:
    [defect] = records(tmp_path, coco({**BOX, "segmentation": {"size": [64, 96], "counts": text}})).peek(0).defects
    assert defect.fatal
    assert defect.field == "segmentation"


def own(folder: Path, content: dict[str, Any]) -> Part:
    write(folder / "a.json", content)
    write(folder / "own.yaml", "name: mine\nroot: .\ntrain: a.json\n")
    return describe(folder / "own.yaml", Formats.of()).train[0]


def read(folder: Path, part: Part) -> Records:
    index = part.index(folder / "cache")
    assert index is not None
    return Records(index, keep_empty=True)


@pytest.mark.parametrize("place", ["a.png", "images/a.png", "upload/4/a.png"])
def test_label_studios_way_to_its_store_is_dropped_and_told(tmp_path: Path, place: str) -> None:
    picture(tmp_path / place)
    name = "..\\..\\label-studio\\media\\upload\\4\\a.png"
    part = own(tmp_path, coco(BOX, file=name))
    found = read(tmp_path, part)
    assert safe_join(part.root / part.images, found[0].image).samefile(tmp_path / place)
    assert found.left_out() == {f"file_name {TOLD['file_name']}": 1}
    assert list(found.problems()) == []  # nothing is lost
    source = cast(DataSource, SimpleNamespace(annotations=lambda: found))
    assert told_read_anyway(source) == f"1 x file_name {TOLD['file_name']}"
    assert told_left_out("mine", source) == f"mine: 1 x file_name {TOLD['file_name']}"
    (tmp_path / place).unlink()
    with pytest.raises(UnsafeDataError, match=r"not there as upload/4/a.png, images/a.png or a.png") as caught:
        safe_join(tmp_path, found[0].image)
    assert caught.value.do == "copy the pictures of the export there"


def test_other_ways_out_are_refused_as_ever(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("../a.png", "../../upload/../../a.png", "x/../../upload/a.png", "..\\label\\a.png"):
        [defect] = records(tmp_path, coco(BOX, file=name)).peek(0).defects
        assert defect.fatal
        assert "climbs out" in defect.message


def test_an_absolute_path_is_taken_where_it_lies_in_the_root_and_nowhere_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data" / "images" / "a.png", tmp_path / "other" / "a.png"
    for path in (inside, outside):
        picture(path)
    part = own(tmp_path / "data", coco(BOX, file=str(inside)))
    assert safe_join(part.root / part.images, read(tmp_path, part)[0].image).samefile(inside)
    for name in (str(outside), f"{inside.parent}/../../other/a.png", "/etc/passwd"):
        with pytest.raises(UnsafeDataError, match=r"lies elsewhere|is not relative"):
            safe_join(tmp_path / "data", name)
    (tmp_path / "data" / "link.png").symlink_to(outside)
    with pytest.raises(UnsafeDataError, match="lies elsewhere"):
        safe_join(tmp_path / "data", str(tmp_path / "data" / "link.png"))
    write(tmp_path / "own.yaml", f"name: mine\nroot: data\ntrain: {tmp_path / 'data' / 'a.json'}\n")
    assert describe(tmp_path / "own.yaml", Formats.of()).train[0].annotations == ("a.json",)
    write(tmp_path / "own.yaml", "name: mine\nroot: data\ntrain: /elsewhere/a.json\n")
    with pytest.raises(UnsafeDataError, match="is not relative"):
        describe(tmp_path / "own.yaml", Formats.of())


def test_sizes_that_the_file_does_not_give_are_read_from_the_pictures(tmp_path: Path) -> None:
    content = coco(BOX)
    content["images"] = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "width": 0, "height": None}]
    picture(tmp_path / "a.png")
    part = own(tmp_path, content)
    found = read(tmp_path, part)
    assert (found[0].height, found[0].width, len(found[0].objects)) == (64, 96, 1)
    assert found.left_out() == {"size read from the picture": 1, "size unusable": 1}
    with pytest.raises(DataError, match="the file does not say it, and of the picture: image is missing"):
        found[1]
    [first, _] = as_coco(found)["images"]
    assert (first["height"], first["width"]) == (64, 96)
    picture(tmp_path / "b.png")  # a picture that comes later is seen
    assert read(tmp_path, part)[1].width == 96


def test_boxes_among_polygons_of_yolo_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "images/train/a.png")
    write(tmp_path / "labels/train/a.txt", "0 0.1 0.1 0.4 0.1 0.4 0.5\n0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cup]\n")
    write(tmp_path / "own.yaml", "name: mine\ntrain: data.yaml\n")
    found = read(tmp_path, describe(tmp_path / "own.yaml", Formats.of()).train[0])
    assert [item.segmentation is None for item in found[0].objects] == [False, True]
    assert found.left_out() == {"box among polygons without a mask": 1}
