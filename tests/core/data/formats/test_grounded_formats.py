"""Published sets of images with parts: what each record says, what is left out, and what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Recipe, Source
from mmcore.data.entry import open_entry
from mmcore.data.formats.coco_regions import CocoRegions
from mmcore.data.formats.format import TASKS, Format
from mmcore.data.formats.grand import Grand, expressions
from mmcore.data.formats.grounded import GROUNDED
from mmcore.data.formats.label_maps import LabelMaps
from mmcore.data.formats.refcocog_captions import RefCocoGCaptions
from mmcore.data.formats.refer_images import ReferImages
from mmcore.data.formats.registry import Formats
from mmcore.data.grounded import GroundedIndex
from mmcore.data.index import open_index
from mmcore.data.parts import Select, open_parts
from mmcore.errors import DataError, MissingDataError, PluginError
from PIL import Image

SQUARE = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def read(parser: Any, tmp_path: Path) -> GroundedIndex:
    return GroundedIndex(open_index(parser, tmp_path / "cache"))


def coco(annotations: list[dict[str, Any]], **image: Any) -> dict[str, Any]:
    entry = {"id": 1, "file_name": "a.jpg", "height": 50, "width": 60, "caption": "a red cup stands", **image}
    return {"images": [entry], "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def box(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "area": 100, **more}


def test_boxes_take_their_words_from_the_image_the_annotation_or_a_span(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", coco([box(1, caption=" a cup ", tokens_positive=[[2, 9]])]))
    words = {"image": "a red cup stands", "annotation": "a cup", "span": "red cup"}
    for kind, text in words.items():
        part = read(CocoRegions(path, kind), tmp_path)[0].parts[0]  # type: ignore[arg-type]
        assert (part.text, part.box_xyxy) == (text, (1.0, 2.0, 11.0, 12.0))


@pytest.mark.parametrize(
    "change",
    [{"area": 0}, {"bbox": [1, 2, 0.5, 10]}, {"bbox": [1, 2, 10, 0.9]}, {"bbox": [70, 2, 10, 10]}, {"ignore": 1}],
)
def test_what_the_published_readers_leave_out_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path / "r.json", coco([box(1, **change), box(2)]))
    assert len(read(CocoRegions(path, "image"), tmp_path)[0].parts) == 1


def test_a_crowd_of_flickr_s_boxes_is_left_out(tmp_path: Path) -> None:
    crowd = box(1, tokens_positive=[[2, 9]], iscrowd=1, sam_mask={"size": [50, 60], "counts": "0"})
    path = written(tmp_path / "r.json", coco([crowd, crowd | {"id": 2, "iscrowd": 0}]))
    found = [len(read(CocoRegions(path, "span", masks=masks), tmp_path)[0].parts) for masks in (False, True)]
    assert found == [1, 2]  # the reader of its grounded captions does not ask


@pytest.mark.parametrize("image", [{"height": 31}, {"caption": "two words"}])
def test_small_pictures_and_short_captions_are_left_out(tmp_path: Path, image: dict[str, Any]) -> None:
    path = written(tmp_path / "r.json", coco([box(1, tokens_positive=[[0, 3]])], **image))
    assert len(read(CocoRegions(path, "span"), tmp_path)) == 0


@pytest.mark.parametrize(
    ("annotation", "field"),
    [
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"tokens_positive": []}, "tokens_positive"),
        ({"tokens_positive": [[5, 99]]}, "tokens_positive"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, annotation: dict[str, Any], field: str) -> None:
    path = written(tmp_path / "r.json", coco([box(3, **{"tokens_positive": [[0, 3]], **annotation})]))
    with pytest.raises(DataError) as caught:
        read(CocoRegions(path, "span"), tmp_path)[0]
    assert f"annotation 3, field {field}" in str(caught.value.where)


def captions(caption: str, *sentences: str) -> list[dict[str, Any]]:
    refs = [{"sentence": sentence, "segmentation": SQUARE} for sentence in sentences]
    return [{"7": {"img_file_name": "a.jpg", "caption": caption, "refs": refs}}]


def test_overlapping_expressions_are_told_apart_in_the_order_of_the_text(tmp_path: Path) -> None:
    content = captions("The woman in a blue coat", "woman in a blue coat", "a blue coat", "The woman", "elsewhere")
    record = read(RefCocoGCaptions(written(tmp_path / "c.json", content)), tmp_path)[0]
    assert [part.text for part in record.parts] == ["the", "woman in", "a blue coat"]
    assert all(record.caption[slice(*part.span)] == part.text for part in record.parts if part.span)


def test_the_published_rule_is_kept_for_comparison(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", captions("the woman in a blue coat", "woman in a", "a blue coat", "The Woman"))
    record = read(RefCocoGCaptions(path, checked=False), tmp_path)[0]
    assert [part.span for part in record.parts] == [(-1, -1), (4, 12), (13, -2)]


def references(tmp_path: Path, refs: list[dict[str, Any]]) -> tuple[Path, Path]:
    annotations = [{"id": n, "image_id": 1, "segmentation": SQUARE} for n in (1, 2)]
    instances = {"images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 20}], "annotations": annotations}
    return written(tmp_path / "refs(unc).json", refs), written(tmp_path / "instances.json", instances)


def reference(split: str, ann_id: Any, *texts: str) -> dict[str, Any]:
    return {"ref_id": 1, "image_id": 1, "ann_id": ann_id, "split": split, "sentences": [{"sent": t} for t in texts]}


def test_expressions_are_grouped_by_image_one_part_each(tmp_path: Path) -> None:
    refs = [reference("train", 1, "left", "the left"), reference("train", [1, 2], "both"), reference("val", 2, "x")]
    record = read(ReferImages(*references(tmp_path, refs), "train"), tmp_path)[0]
    assert [(part.text, len(part.objects)) for part in record.parts] == [("left", 1), ("the left", 1), ("both", 2)]


def test_nothing_is_meant_by_minus_one(tmp_path: Path) -> None:
    record = read(ReferImages(*references(tmp_path, [reference("train", [-1], "a cow")]), "train"), tmp_path)[0]
    assert not record.parts[0].bitmap((20, 20), "here").any()


@pytest.mark.parametrize(("split", "count"), [("train", 1), ("val", 1), ("testA", 2), ("testB", 1), ("test", 3)])
def test_splits_are_chosen_by_the_published_rule(tmp_path: Path, split: str, count: int) -> None:
    given = ("train", "val", "testA", "testAB", "test")
    paths = references(tmp_path, [reference(one, 1, one) for one in given])
    assert len(read(ReferImages(*paths, split), tmp_path)[0].parts) == count


def test_an_unknown_split_and_a_lost_annotation_are_named(tmp_path: Path) -> None:
    paths = references(tmp_path, [reference("train", 9, "x")])
    with pytest.raises(DataError, match="no split 'trian'"):
        read(ReferImages(*paths, "trian"), tmp_path)
    with pytest.raises(DataError, match=r"annotation 9 is not in instances.json"):
        read(ReferImages(*paths, "train"), tmp_path)[0]


def label_map(folder: Path, values: list[list[int]], mode: str = "L") -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.array(values, np.uint8), mode if mode == "L" else None).convert(mode).save(folder / "x.png")
    return folder


def test_maps_become_a_part_for_every_class(tmp_path: Path) -> None:
    folder = label_map(tmp_path / "m", [[0, 1, 1], [3, 3, 0]])
    maps = LabelMaps(folder, "ade20k")
    record = maps[0]
    assert (record.image, [part.text for part in record.parts]) == ("x.jpg", ["wall", "sky"])
    assert maps.bitmaps(record, record.parts, (2, 3))[0].tolist() == [[0, 1, 1], [0, 0, 0]]
    stuff = LabelMaps(folder, "cocostuff")
    assert [part.text for part in stuff[0].parts] == ["person", "bicycle", "motorcycle"]


def test_a_map_of_another_size_or_of_unknown_classes_is_refused(tmp_path: Path) -> None:
    maps = LabelMaps(label_map(tmp_path / "m", [[1, 2]]), "ade20k")
    with pytest.raises(DataError, match="label map is 1x2, its picture 3x3"):
        maps.bitmaps(maps[0], maps[0].parts, (3, 3))
    with pytest.raises(DataError, match="class 199, of 150"):
        LabelMaps(label_map(tmp_path / "n", [[200, 2]]), "ade20k")[0]
    (tmp_path / "m" / "x.png").unlink()
    Image.new("RGB", (3, 3)).save(tmp_path / "m" / "x.png")
    with pytest.raises(DataError, match="one number a pixel"):
        LabelMaps(tmp_path / "m", "ade20k")[0]
    with pytest.raises(MissingDataError):
        LabelMaps(tmp_path / "nowhere", "ade20k")


THING = {"id": 4, "bbox": [0, 0, 5, 5], "labels": ["white_chair"], "segmentation": None}


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("Assistant: a chair", ["a chair"]),
        (["a table", "the white chair here", "a white chair"], ["the white chair here", "a white chair"]),
        (["a table", "a lamp"], ["a table"]),
        (None, []),
    ],
)
def test_raw_attributes_become_expressions(attributes: Any, said: list[str]) -> None:
    assert [one["attribute"] for one in expressions([{**THING, "attributes": attributes}])] == said


def raw(folder: Path) -> Path:
    folder.mkdir()
    caption = {"caption": "A chair stands.", "details": []}
    content = {"a.jpg": {"objects": [{**THING, "attributes": "a chair"}], "short_captions": [caption]}}
    written(folder / "a.json", content)
    return folder


def test_raw_files_serve_captions_and_expressions(tmp_path: Path) -> None:
    folder = raw(tmp_path / "g")
    assert [part.text for part in Grand(folder, "caption")[0].parts] == ["A chair stands."]
    part = Grand(folder, "expression")[0].parts[0]
    assert (part.text, part.box_xyxy, part.objects) == ("a chair", (0.0, 0.0, 5.0, 5.0), ())
    with pytest.raises(DataError, match="'a chair' has a box and no segmentation"):  # none is made up
        Grand(folder, "expression").bitmaps(Grand(folder, "expression")[0], [part], (5, 5))


def test_an_lmdb_is_read_by_the_list_beside_it_or_by_its_keys(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the extra lmdb is not installed")
    folder = tmp_path / "Grand_x_lmdb"
    with lmdb.open(str(folder), map_size=1 << 20) as store, store.begin(write=True) as transaction:
        for name in ("a.jpg", "b.jpg"):
            value = {name: [{"attribute": f"in {name}", "id": 1, "bbox": [0, 0, 4, 4], "segmentation": None}]}
            transaction.put(name.encode(), json.dumps(value).encode())
    assert [Grand(folder, "expression")[n].image for n in range(2)] == ["a.jpg", "b.jpg"]
    (folder / "Grand_x_lmdb_Train.txt").write_text("b.jpg\n\nc.jpg\n")
    listed = Grand(folder, "expression")
    assert len(listed) == 2
    assert listed[0].parts[0].text == "in b.jpg"
    with pytest.raises(MissingDataError, match=r"no key 'c.jpg'"):
        listed[1]
    content = (folder / "data.mdb").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "data.mdb").write_bytes(content[:4096])
    with pytest.raises(DataError, match="cannot be read"):
        Grand(tmp_path / "cut", "caption")


def test_a_missing_store_or_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDataError, match="folder is missing"):
        Grand(tmp_path / "nowhere", "caption")
    with pytest.raises(MissingDataError, match="no LMDB"):
        Grand(tmp_path, "caption")
    (tmp_path / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(PluginError, match="needs the package lmdb"):
        Grand(tmp_path, "caption")


@pytest.mark.parametrize("format", GROUNDED, ids=lambda format: format.name)
def test_every_published_set_says_what_it_teaches(format: Format) -> None:
    assert set(format.tasks) <= set(TASKS)
    assert format.title.rstrip(".") == format.title != ""
    assert format.name not in Formats.of()
    assert Formats.of(GROUNDED)[format.name] is format


class Nothing(Recipe):
    """Of a family in this test."""


@pytest.mark.parametrize("select", ["classes", "annotations"])
def test_parts_are_opened_from_objects_maps_and_phrases_alike(tmp_path: Path, select: Select) -> None:
    content = coco([box(1, segmentation=SQUARE), box(2, segmentation=SQUARE)])
    written(tmp_path / "c.json", content)
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.full((50, 60), 1, np.uint8)).save(tmp_path / "maps" / "a.png")
    spoken = {"red cup": {"token_positives": [0, 7], "polygons": SQUARE}}
    written(tmp_path / "g.json", [{"file_name": "a.jpg", "caption": "red cup", "groundings": spoken}])
    sources = {"PASCAL-Part": "c.json", "ADE20K maps": "maps", "GranD-f": "g.json"}
    count = {"PASCAL-Part": 1 if select == "classes" else 2, "ADE20K maps": 1, "GranD-f": 1}
    for name, annotations in sources.items():
        source = Source(weight=1.0, format=name, annotations=annotations, images="")
        context = DataContext(tmp_path, tmp_path / "cache", "tiny", 0)
        opened = open_entry(name, source, context, Formats.of(GROUNDED), tasks=tuple(TASKS), options=Nothing)
        records = open_parts(opened, select)
        record = records[0]
        assert (len(records), len(record.parts), record.image) == (1, count[name], "a.jpg")
        masks = records.bitmaps(record, record.parts, (50, 60))
        assert [mask.max() for mask in masks] == [1] * count[name]
