"""COCO and RefCOCO files become the records of the published code; what is wrong is noted with record and field."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.data.formats.coco import CocoInstances, Lvis, Phrases
from mmcore.data.formats.plain_pickle import load_plain
from mmcore.data.formats.refer import RefCoco, Refer
from mmcore.data.index import open_index
from mmcore.data.records import Object, Record, Records
from mmcore.errors import DataError, MissingDataError, UnsafeDataError

IMAGE = {"id": 5, "file_name": "a.jpg", "height": 60, "width": 80}
TRIANGLE = [10, 10, 40.5, 10, 20, 30]


def annotation(id_: int = 1, **changes: Any) -> dict[str, Any]:
    whole = {"id": id_, "image_id": 5, "bbox": [10, 10, 30.5, 20], "category_id": 3, "segmentation": [TRIANGLE]}
    return {key: value for key, value in {**whole, **changes}.items() if value is not ...}


def coco(folder: Path, annotations=(), images=(IMAGE,), **options: Any) -> Records:
    content = {
        "info": {"note": "ünïcode"},
        "images": list(images),
        "annotations": list(annotations),
        "categories": [{"id": 7, "name": "Bär"}, {"id": 3, "name": "cat"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content, ensure_ascii=False))
    return Records(open_index(CocoInstances(path, **options), folder / "cache"), keep_empty=True)


def problem(records: Records, position: int = 0) -> str:
    with pytest.raises(DataError) as error:
        records[position]
    return str(error.value)


def as_published(record: Record, folder: str) -> dict[str, Any]:
    return {
        "file_name": f"{folder}/{record.image}",
        "height": record.height,
        "width": record.width,
        "image_id": record.id,
        "annotations": [
            {
                "iscrowd": int(item.crowd),
                "bbox": list(item.box_xywh),
                "category_id": item.category,
                "segmentation": item.segmentation,
                "bbox_mode": "XYWH_ABS",
            }
            for item in record.objects
        ],
    }


@pytest.mark.parametrize(
    ("case", "file", "folder"),
    [
        ("data_coco", "coco/annotations/instances_train2017.json", "coco/train2017"),
        ("data_refcoco", "annotations/refcoco-mixed/instances_train.json", "coco/train2014"),
    ],
)
def test_records_are_the_published_ones(shared, tmp_path, case, file, folder):
    root = shared / "goldens/glee" / case
    parser = RefCoco(root / file) if case == "data_refcoco" else CocoInstances(root / file)
    records = list(Records(open_index(parser, tmp_path), keep_empty=True))
    published = json.loads((root / "case.json").read_text())["records"]
    assert len(records) == len(published)
    for record, expected in zip(records, published):
        assert list(record.expressions) == expected.pop("expressions", [])
        expected = {key: value for key, value in expected.items() if key not in ("task", "dataset_name")}
        assert as_published(record, folder) == expected
        for item, stored in zip(record.objects, expected["annotations"]):
            assert [type(value) for value in item.box_xywh] == [type(value) for value in stored["bbox"]]


def test_real_annotations_have_no_defects(shared, tmp_path):
    for split, size in (("train2017", 80), ("val2017", 40)):
        path = shared / f"data/coco_mini/annotations/instances_{split}.json"
        records = Records(open_index(CocoInstances(path), tmp_path), keep_empty=True)
        assert len(records) == size
        assert not [record.defects for record in records if record.defects]
        content = json.loads(path.read_text())
        assert sum(len(record.objects) for record in records) == len(content["annotations"])


@pytest.mark.parametrize("name", ["caf\u00e9", "\u4e2d\u6587", "cat", "\U0001f9a6"])
@pytest.mark.parametrize("escaped", [True, False])
def test_names_of_categories_may_be_written_as_escapes(tmp_path, name, escaped):
    content = {"images": [IMAGE], "annotations": [], "categories": [{"id": 3, "name": name}]}
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=escaped), encoding="utf-8")
    assert open_index(CocoInstances(tmp_path / "a.json"), tmp_path / "cache").meta["categories"] == [name]


def test_images_are_ordered_by_id_and_categories_numbered_by_id(tmp_path):
    images = [{**IMAGE, "id": number} for number in (9, 5, 7)]
    records = coco(tmp_path, [annotation(1, category_id=7), annotation(2, image_id=9)], images)
    assert [record.id for record in records] == [5, 7, 9]
    assert records[0].objects[0].category == 1
    assert records[2].objects[0].category == 0
    assert records.index.meta["categories"] == ["cat", "Bär"]
    assert records.index.meta["category_ids"] == [3, 7]


def test_training_leaves_out_images_without_objects_but_crowds(tmp_path):
    images = [{**IMAGE, "id": number} for number in (5, 6, 7)]
    crowd = annotation(2, image_id=6, iscrowd=1, segmentation={"size": [60, 80], "counts": [0, 20, 4780]})
    every = coco(tmp_path, [annotation(1, image_id=7), crowd], images)
    assert every[1].objects[0].crowd
    kept = Records(every.index)
    assert [record.id for record in kept] == [7]
    assert kept.number(0) == 2
    assert kept.aspect_groups().tolist() == [1]
    assert kept.total("num_objects") == 1
    assert kept.fingerprint != every.fingerprint
    assert pickle.loads(pickle.dumps(kept))[0] == kept[0]


def test_only_the_last_annotation_of_an_image_counts_when_asked(tmp_path):
    records = coco(tmp_path, [annotation(1), annotation(2, category_id=7)], one_object=True)
    assert [item.id for item in records[0].objects] == [2]


def test_boxes_without_masks_are_fine(tmp_path):
    [item] = coco(tmp_path, [annotation(segmentation=...)])[0].objects
    assert item == Object(1, (10, 10, 30.5, 20), 0, False, None)


def test_invalid_polygons_are_dropped_as_published_and_noted(tmp_path):
    records = coco(
        tmp_path, [annotation(1, segmentation=[TRIANGLE, [1, 2, 3, 4]]), annotation(2, segmentation=[[1, 2]])]
    )
    record = records[0]
    assert [item.id for item in record.objects] == [1]
    assert record.objects[0].segmentation == [TRIANGLE]
    assert [(defect.where, defect.field, defect.fatal) for defect in record.defects] == [
        ("annotation 2", "segmentation", False)
    ]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"bbox": [70, 10, 30, 20]}, "bbox", "20 pixels outside its 80x60 image"),
        ({"bbox": [-20, 10, 30, 20]}, "bbox", "20 pixels outside"),
        ({"bbox": [500, 500, 3, 3]}, "bbox", "pixels outside"),
        ({"bbox": [float("nan"), 1, 2, 3]}, "bbox", "four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 3]}, "bbox", "four finite numbers"),
        ({"bbox": [1, 2, 3]}, "bbox", "four finite numbers"),
        ({"bbox": "1,2,3,4"}, "bbox", "four finite numbers"),
        ({"bbox": None}, "bbox", "None is not four"),
        ({"bbox": ..., "segmentation": ...}, "bbox", "None is not four"),
        ({"bbox": [20, 10, -5, 5]}, "bbox", "negative side"),
        ({"category_id": 4}, "category_id", "category 4 is not among the file's (3, 7)"),
        ({"category_id": None}, "category_id", "category None"),
        ({"category_id": "cat"}, "category_id", "category 'cat'"),
        ({"segmentation": {"size": [60, 80], "counts": "P"}}, "segmentation", "end inside a number"),
        ({"segmentation": {"size": [60, 80], "counts": [7]}}, "segmentation", "covers 7 pixels"),
        (
            {"segmentation": {"size": [6, 8], "counts": [48]}},
            "segmentation",
            "size [6, 8] in an image of size [60, 80]",
        ),
        ({"segmentation": {"size": [1 << 20, 1 << 20], "counts": "0"}}, "segmentation", "budget"),
        ({"segmentation": "abc"}, "segmentation", "neither polygons nor RLE"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "segmentation", "finite number"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "segmentation", "finite number"),
    ],
)
def test_an_unusable_annotation_is_reported_with_file_record_and_field(tmp_path, changes, field, message):
    text = problem(coco(tmp_path, [annotation(17, **changes)]))
    assert message in text
    assert "instances.json, image id 5 (a.jpg), annotation 17, field " + field in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "../../etc/passwd"}, "climbs out"),
        ({"file_name": "http://a/b.jpg"}, "URL"),
        ({"file_name": "a\0.jpg"}, "NUL"),
        ({"file_name": 5}, "not text"),
        ({"height": 0}, "positive whole number"),
        ({"width": "80.5"}, "positive whole number"),
    ],
)
def test_an_unusable_image_entry_is_reported(tmp_path, changes, message):
    assert message in problem(coco(tmp_path, [annotation()], [{**IMAGE, **changes}]))


def test_a_box_may_reach_out_by_rounding(tmp_path):
    record = coco(tmp_path, [annotation(bbox=[-1, 10, 82.5, 20])])[0]
    assert record.objects[0].box_xywh == (-1, 10, 82.5, 20)


def test_a_box_that_lies_mostly_inside_is_cut_and_counted(tmp_path):
    record = coco(tmp_path, [annotation(bbox=[-10, 10, 30, 20]), annotation(2)])[0]
    assert [item.box_xywh for item in record.objects] == [(0, 10, 20, 20), (10, 10, 30.5, 20)]
    [defect] = record.defects
    assert not defect.fatal
    assert "10 pixels outside its 80x60 image; cut at the border" in defect.message


@pytest.mark.parametrize(
    ("image", "changes"),
    [
        ({"id": "5", "height": 60.0, "width": "80"}, {"id": "1", "image_id": 5.0, "category_id": "3"}),
        ({"id": 5.0, "file_name": "sub\\a.jpg"}, {"image_id": "5", "iscrowd": "0", "category_id": 3.0}),
        ({}, {"iscrowd": None, "segmentation": [[[10, 10], [40.5, 10], [20, 30]]]}),
        ({}, {"iscrowd": "false", "segmentation": [[10, 10], [40.5, 10], [20, 30]]}),
    ],
)
def test_numbers_flags_and_points_are_read_as_tools_write_them(tmp_path, image, changes):
    [record] = coco(tmp_path, [annotation(**changes)], [{**IMAGE, **image}])
    assert (record.id, record.height, record.width, record.defects) == (5, 60, 80, ())
    assert record.image in ("a.jpg", "sub/a.jpg")
    assert record.objects == (Object(1, (10, 10, 30.5, 20), 0, False, [TRIANGLE]),)


def test_run_lengths_may_be_whole_floats(tmp_path):
    mask = {"size": [60.0, 80], "counts": [0.0, 20.0, 4780.0]}
    [record] = coco(tmp_path, [annotation(segmentation=mask)])
    assert record.objects[0].segmentation["size"] == [60, 80]


def test_a_record_whose_objects_are_all_unusable_does_not_vanish_from_training(tmp_path):
    records = Records(coco(tmp_path, [annotation(bbox=["1", "2", "3", "4"])]).index)
    assert len(records) == 1
    assert "four finite numbers" in problem(records)


def test_boxes_alone_leave_masks_unjudged(tmp_path):
    [record] = coco(tmp_path, [annotation(segmentation=[[1, 2, 3, 4]])], boxes_only=True)
    assert record.objects[0].segmentation is None
    assert not record.defects


def test_category_names_are_read_as_they_are_meant_and_a_repeated_id_is_refused(tmp_path):
    path = tmp_path / "a.json"
    content = {"images": [IMAGE], "annotations": [], "categories": [{"id": "3", "name": "caf\u00e9"}]}
    path.write_text(json.dumps(content))
    assert open_index(CocoInstances(path), tmp_path / "cache").meta["categories"] == ["café"]
    path.write_text(json.dumps({**content, "categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}))
    with pytest.raises(DataError, match="category id 3 stands twice: 'a' and 'b'"):
        open_index(CocoInstances(path), tmp_path / "cache")


def test_annotations_of_unknown_images_are_counted(tmp_path):
    records = coco(tmp_path, [annotation(1), annotation(2, image_id=4), annotation(3, image_id=99)])
    assert records.index.meta["orphans"] == 2
    assert [item.id for item in records[0].objects] == [1]


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([annotation(1), annotation(1)], [IMAGE], "annotation id 1 occurs more than once"),
        ([], [IMAGE, IMAGE], "image id 5 occurs more than once"),
        (
            [annotation(1, image_id=...)],
            [IMAGE],
            "image_id None of an element of annotations is neither",
        ),
        (
            [annotation(1, image_id=[5])],
            [IMAGE],
            r"image_id \[5\] of an element of annotations is neither",
        ),
        ([annotation(1 << 80)], [IMAGE], "does not fit 64 bits"),
        (["text"], [IMAGE], "neither a whole number nor text"),
        ([], [], "there are no images"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_stops_at_once(tmp_path, annotations, images, message):
    with pytest.raises(DataError, match=message) as error:
        coco(tmp_path, annotations, images)
    assert "instances.json" in str(error.value)


objects = st.builds(
    Object,
    st.integers(0, 2**40),
    st.one_of(st.tuples(*[st.integers(0, 99)] * 4), st.tuples(*[st.floats(0, 99)] * 4)),
    st.integers(0, 1203),
    st.booleans(),
    st.none()
    | st.just({"size": [2, 2], "counts": "13"})
    | st.lists(
        st.lists(st.integers(-5, 99), min_size=6, max_size=8) | st.lists(st.floats(-5, 99), min_size=6), min_size=1
    ),
    st.none() | st.integers(0, 9999) | st.floats(0, 9999),
)


@settings(max_examples=80)
@given(
    st.lists(objects, max_size=5),
    st.lists(st.text(st.characters(codec="utf-8")), max_size=3),
    st.text("äb/.", min_size=1),
    st.none() | st.just({"neg_category_ids": [1, 7], "not_exhaustive_category_ids": []}),
)
def test_records_survive_the_index_byte_for_byte(found, expressions, name, lists):
    phrases = tuple(f"thing {number}" for number in range(len(found)))
    record = Record(name, 7, 60, 80, tuple(found), tuple(expressions), (), phrases, lists)
    again = Record.from_bytes(record.to_bytes())
    assert again == record
    assert repr(again) == repr(record)  # whole numbers stay whole


# ---- LVIS and free words ----


def one_record(folder: Path, parser: Any, image: dict[str, Any], annotations: list[dict[str, Any]]) -> Record:
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (folder / "one.json").write_text(json.dumps(content))
    return Records(open_index(parser(folder / "one.json"), folder / "cache"), keep_empty=True).peek(0)


def test_lvis_images_lie_in_the_folder_of_their_split_and_keep_their_lists(tmp_path):
    lists = {"neg_category_ids": [1], "not_exhaustive_category_ids": [3]}
    image = {"id": 5, "height": 60, "width": 80, "coco_url": "http://images.cocodataset.org/val2017/9.jpg", **lists}
    record = one_record(tmp_path, Lvis, image, [annotation(iscrowd=...)])
    assert (record.image, record.category_lists) == ("val2017/9.jpg", lists)
    assert [(item.category, item.crowd) for item in record.objects] == [(0, False)]


def test_an_lvis_address_cannot_lead_out_of_the_image_folder(tmp_path):
    image = {"id": 5, "height": 60, "width": 80, "coco_url": "http://somewhere/../passwd"}
    record = one_record(tmp_path, Lvis, image, [annotation()])
    assert [(defect.field, defect.fatal) for defect in record.defects] == [("file_name", True)]


def test_phrases_are_taken_from_the_first_field_that_is_there(tmp_path):
    named = [
        {"caption": "last", "object_name": "second", "caption_with_token": "first"},
        {"caption": "last", "object_name": "second"},
        {"caption": "last"},
        {},
    ]
    found = [annotation(number, segmentation=..., **names) for number, names in enumerate(named)]
    record = one_record(tmp_path, Phrases, IMAGE, found)
    assert record.phrases[:3] == ("first", "second", "last")
    assert len(record.phrases) == len(record.objects) == 4
    assert [(defect.where, defect.fatal) for defect in record.defects] == [("annotation 3", True)]


def test_an_object_that_is_left_out_takes_its_phrase_along(tmp_path):
    found = [annotation(1, segmentation=[[1, 2]], caption="gone"), annotation(2, caption="here")]
    record = one_record(tmp_path, Phrases, IMAGE, found)
    assert (record.phrases, [item.id for item in record.objects]) == (("here",), [2])


# ---- references as published ----

REFERENCE = {
    "ref_id": 0,
    "ann_id": 1,
    "image_id": 5,
    "split": "train",
    "sentences": [{"sent": "the cat", "raw": "The cat.", "tokens": ["the", "cat"], "sent_id": 0}],
    "sent_ids": [0],
    "category_id": 3,
    "file_name": "COCO_train2014_000000000005_1.jpg",
}


def refer(folder: Path, references: Any, split: str = "train", *, as_json: bool = False, protocol: int = 2) -> Records:
    coco(folder, [annotation()])
    if as_json:
        (folder / "refs(unc).json").write_text(json.dumps(references))
    else:
        (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol))
    parser = Refer(folder / "refs(unc).p", folder / "instances.json", split)
    return Records(open_index(parser, folder / "cache"))


def test_a_reference_becomes_an_image_one_object_and_its_sentences(tmp_path):
    [record] = refer(tmp_path, [REFERENCE])
    assert record == Record("a.jpg", 0, 60, 80, (Object(1, (10, 10, 30.5, 20), 0, False, [TRIANGLE]),), ("the cat",))


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_and_json_give_the_same_records(tmp_path, protocol):
    references = [REFERENCE, {**REFERENCE, "ref_id": 1, "sentences": [{"sent": "die Kätzin"}]}]
    (tmp_path / "pickle").mkdir()
    (tmp_path / "json").mkdir()
    pickled = list(refer(tmp_path / "pickle", references, protocol=protocol))
    assert pickled == list(refer(tmp_path / "json", references, as_json=True))
    assert pickled[1].expressions == ("die Kätzin",)


def test_pickles_of_python_2_are_read(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'n'\nI5\nsS'long'\nL7L\nsa.")
    assert load_plain(path) == [{"sent": "café", "n": 5, "long": 7}]
    path.write_bytes(b"S'caf\\xe9'\n.")
    assert load_plain(path) == "café"


def test_an_unknown_split_names_those_there_are(tmp_path):
    with pytest.raises(DataError, match="no split 'tets'") as error:
        refer(tmp_path, [REFERENCE, {**REFERENCE, "split": "testA"}], "tets")
    assert "train (1)" in str(error.value)


def test_a_reference_to_something_absent_is_reported(tmp_path):
    records = refer(tmp_path, [{**REFERENCE, "ann_id": 99}, {**REFERENCE, "image_id": 98, "ref_id": 1}])
    every = Records(records.index, keep_empty=True)
    assert "annotation 99 is not in instances.json" in problem(every, 0)
    assert "image 98 is not in instances.json" in problem(every, 1)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"a": 1}, "not a list"),
        ([5], "reference 0: is a int"),
        ([REFERENCE, {**REFERENCE, "ann_id": "1"}], "reference 1: field ann_id"),
        ([{**REFERENCE, "sentences": []}], "field sentences"),
        ([{**REFERENCE, "sentences": [{"raw": "x"}]}], "no text 'sent'"),
        ([{**REFERENCE, "split": None}], "field split"),
    ],
)
def test_references_of_another_shape_are_refused(tmp_path, references, message):
    with pytest.raises(DataError, match=message):
        refer(tmp_path, references)


def test_missing_references_say_where_they_come_from(tmp_path):
    coco(tmp_path, [annotation()])
    with pytest.raises(MissingDataError, match=r"no references refs\(unc\)\.p") as error:
        open_index(Refer(tmp_path / "refs(unc).p", tmp_path / "instances.json", "val"), tmp_path / "cache")
    assert "lichengunc/refer" in str(error.value)


class Canary:
    """Leaves a file when a pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch '{self._path}'",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("ending", ["p", "json"])
def test_a_hostile_pickle_is_refused_and_never_executed(tmp_path, protocol, ending):
    canary = tmp_path / "canary"
    coco(tmp_path, [annotation()])
    path = tmp_path / f"refs(unc).{ending}"
    path.write_bytes(pickle.dumps([{**REFERENCE, "extra": Canary(canary)}], protocol))
    with pytest.raises(DataError) as error:
        open_index(Refer(path, tmp_path / "instances.json", "train"), tmp_path / "cache")
    assert isinstance(error.value, UnsafeDataError) or ending == "json"
    assert str(path) in str(error.value)
    assert not canary.exists()


def test_a_pickle_posing_as_instances_is_refused(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "instances.json").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DataError, match="not valid JSON"):
        open_index(CocoInstances(tmp_path / "instances.json"), tmp_path / "cache")
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02Ppersistent\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of eight exabytes
        b"\x80\x02]r\xff\xff\xff\x7f.",  # entry two billion of the memo
        b"\x80\x02K\x01b.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"",
        b"{}",
    ],
)
def test_crafted_pickles_are_refused_without_memory(tmp_path, content):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_plain(path)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_random_bytes_never_get_further_than_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.p"
    path.write_bytes(content)
    try:
        load_plain(path)
    except DataError:
        return
