"""Classes under other names: whoever reads records, trains or judges sees the new ones."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcore.cli.options import read_classes
from mmcore.contract.classes import as_map
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import AdamW, Constant, Data, Recipe, Source, Stage, Validation
from mmcore.contract.values import Phrase, Prediction
from mmcore.data.entry import open_entry
from mmcore.data.formats.classes import Renamed, renamed, under
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import TASKS
from mmcore.data.formats.registry import Formats
from mmcore.data.formats.ytvis import FORMATS as FORMATS_OF_VIDEOS
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.records import Records, told_left_out
from mmcore.data.videos import VideoRecords
from mmcore.errors import RecipeError, UsageError
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.runs.config import resolve
from mmcore.runs.own import with_own
from mmcore.runs.predict import Question, with_classes

NAMES = ["lift truck", "Forklift", "pallet", "person"]

STAGE = Stage(
    number=1, name="finetune", title="own data", origin="assumed", steps=10, global_batch=4, micro_batch=2,
    data=Data(sources={"old": Source(weight=2.0, format="COCO instances", annotations="old.json")}),
    optim=AdamW(lr=1e-3), schedule=Constant(),
)  # fmt: skip


def write(path: Path, *, names: list[str] = NAMES, root: bool = False) -> Path:
    """Two images; image 1 has one object of each class, image 2 a pallet alone."""
    categories = [{"id": n + 1, "name": name, "supercategory": "objects"} for n, name in enumerate(names)]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 80, "width": 100} for i in (1, 2)]
    places = [*((1, category["id"]) for category in categories), (2, 3)]
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": [20 * category, 10, 15, 30], "iscrowd": 0}
        | {"segmentation": [[20 * category, 10, 20 * category + 15, 10, 20 * category + 15, 40]], "area": 225}
        for n, (image, category) in enumerate(places)
    ]
    top = [{"id": 0, "name": "objects", "supercategory": "none"}] if root else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [*top, *categories]}))
    return path


def records(path: Path, cache: Path, classes: object) -> Records:
    given = as_map(classes)
    parser = CocoInstances(path)
    return Records(open_index(Renamed(parser, tuple(given.items())) if given else parser, cache), keep_empty=True)


def called(found: Records) -> list[list[str]]:
    return [[found.index.meta["categories"][item.category] for item in record.objects] for record in found]


@pytest.mark.parametrize(
    ("classes", "names", "objects"),
    [
        (None, NAMES, [NAMES, ["pallet"]]),
        (["person", "pallet"], ["person", "pallet"], [["pallet", "person"], ["pallet"]]),
        ({"lift truck": "forklift", "forklift": "forklift"}, ["forklift", "pallet", "person"],
         [["forklift", "forklift", "pallet", "person"], ["pallet"]]),
        ({"pallet": None}, ["lift truck", "Forklift", "person"], [["lift truck", "Forklift", "person"], []]),
        ({"lift truck": "vehicle", "Forklift": "vehicle", "*": None}, ["vehicle"], [["vehicle", "vehicle"], []]),
        ({"*": "thing"}, ["thing"], [["thing"] * 4, ["thing"]]),
    ],
)  # fmt: skip
def test_objects_have_the_names_that_are_asked_for(tmp_path: Path, classes, names, objects) -> None:
    found = records(write(tmp_path / "a.json"), tmp_path / "cache", classes)
    assert found.index.meta["categories"] == names
    assert called(found) == objects
    assert Records(found.index).total("num_objects") == sum(map(len, objects))
    assert len(Records(found.index)) == sum(map(bool, objects)), "an image without objects is not trained on"


@pytest.mark.parametrize("classes", [{"palet": "x"}, ["palet"]])
def test_a_class_that_nobody_has_is_refused_with_the_nearest(tmp_path: Path, classes) -> None:
    with pytest.raises(RecipeError, match=r"(?s)no class 'palet'.*did you mean 'pallet'"):
        records(write(tmp_path / "a.json"), tmp_path / "cache", classes)


def test_leaving_everything_out_is_refused() -> None:
    with pytest.raises(RecipeError, match="every class is left out"):
        renamed(NAMES, {"*": ""}, "classes")


def test_a_perfect_detector_of_the_new_classes_is_judged_perfect(tmp_path: Path) -> None:
    given = {"lift truck": "forklift", "Forklift": "forklift", "pallet": None}
    found = records(write(tmp_path / "a.json"), tmp_path / "cache", given)
    judge = CocoEvaluator(found, iou_types=("bbox",), category_ids=found.index.meta["category_ids"])
    predictions = []
    for record in found:
        boxes = torch.tensor([item.box_xywh for item in record.objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([item.category for item in record.objects], dtype=torch.long)
        predictions.append(Prediction(record.id, (80, 100), boxes, torch.ones(len(labels)), labels))
    judge.update(None, predictions)  # type: ignore[arg-type]
    assert judge.summarise(judge.state())["bbox/AP"] == pytest.approx(1.0)
    assert judge.category_ap["bbox"] == pytest.approx({"forklift": 1.0, "person": 1.0})
    assert {one["category_name"] for one in judge.results(judge.state())} == {"forklift", "person"}


@pytest.mark.parametrize("entry", [Source(weight=1.0, format="COCO instances"), Validation(format="COCO instances")])
def test_a_recipe_takes_a_list_or_a_map(entry) -> None:
    assert entry.replace(classes=["a", "b"]).classes == {"a": "a", "b": "b", "*": ""}
    assert entry.replace(classes={"a": None, "b": "c"}).classes == {"a": "", "b": "c"}
    with pytest.raises(Exception, match="classes"):
        entry.replace(classes=3)


@pytest.mark.parametrize("root", [True, False])
def test_the_root_that_an_export_makes_is_no_class(tmp_path: Path, root: bool) -> None:
    found = records(write(tmp_path / "a.json", root=root), tmp_path / "cache", None)
    assert found.index.meta["categories"] == NAMES
    assert found.index.meta.get("root") == ("objects" if root else None)


def test_a_root_with_objects_or_beside_other_groups_is_a_class_like_any(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", root=True)
    tree = json.loads(path.read_text())
    annotated = {**tree, "annotations": [{**one, "category_id": 0} for one in tree["annotations"]]}
    path.write_text(json.dumps(annotated))
    assert records(path, tmp_path / "cache", None).index.meta["categories"] == ["objects", *NAMES]
    assert called(records(path, tmp_path / "cache", {"objects": None, "*": "other"})) == [[], []]
    grouped = [{**one, "supercategory": "people"} if one["name"] == "person" else one for one in tree["categories"]]
    path.write_text(json.dumps({**tree, "categories": grouped}))
    assert records(path, tmp_path / "cache", None).index.meta["categories"] == ["objects", *NAMES]


def test_own_data_share_one_map_and_each_file_takes_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "train.json")
    write(tmp_path / "val.json", names=["lift truck", "Forklift", "pallet"])
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: yard\ntrain: train.json\nval: val.json\n"
        "classes: {lift truck: forklift, forklift: forklift, person: worker, pallet: null}\n"
    )
    stage, _ = with_own(STAGE, own, Formats.of(), ("detect", "segment"), tmp_path / "cache")
    assert stage.class_names == ("forklift", "worker")
    assert stage.data.sources["yard"].classes["person"] == "worker"
    assert "person" not in stage.validation["yard_val"].classes
    own.write_text("name: yard\ntrain: train.json\nval: val.json\nclasses: [forklift, persn]\n")
    with pytest.raises(RecipeError, match="no annotations have a class 'persn'"):
        with_own(STAGE, own, Formats.of(), ("detect", "segment"), tmp_path / "cache")


def test_an_answer_takes_the_names_too() -> None:
    found = Prediction(
        1, (9, 9), torch.arange(12.0).reshape(3, 4), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]),
        names=("lift truck", "person", "Forklift"), text="a b c",
        phrases=(Phrase(0, 0, 1, (0, 1)), Phrase(0, 2, 3, (1,)), Phrase(0, 4, 5, (2,))),
    )  # fmt: skip
    question = Question(classes=as_map({"lift truck": "forklift", "forklift": "forklift", "person": None}))
    answer = with_classes(found, question.classes)
    assert answer.names == ("forklift", "forklift")
    assert answer.scores is not None
    assert answer.scores.tolist() == pytest.approx([0.9, 0.7])
    assert [one.objects for one in answer.phrases] == [(0,), (), (1,)]
    assert with_classes(found, {}) is found


def test_the_command_line_takes_a_list_a_map_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("a: b\nc: null\n")
    assert read_classes("[a, b]") == {"a": "a", "b": "b", "*": ""}
    assert read_classes("{a: b, c: null}") == read_classes(str(tmp_path / "classes.yaml")) == {"a": "b", "c": ""}
    assert read_classes(None) == {}
    for wrong in ("a", "3", "[1, 2]", "{a: {b: c}}", "[]"):
        with pytest.raises(UsageError, match="neither a list"):
            read_classes(wrong)


def test_objects_that_are_left_out_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.json")
    found = records(tmp_path / "a.json", tmp_path / "cache", {"pallet": None})
    assert found.total("num_left_out") == 2
    source = SimpleNamespace(annotations=lambda: Records(found.index))
    assert told_left_out("yard", source) == "yard: 2 objects of pallet are left out, as `classes` says"  # type: ignore[arg-type]


def test_tracks_of_videos_are_renamed_and_left_out(tmp_path: Path) -> None:
    written = FORMATS_OF_VIDEOS[0].sample(tmp_path)
    path = tmp_path / written.annotations
    plain = VideoRecords(open_index(Videos(path), tmp_path / "cache"), keep_empty=True)
    kinds = plain.index.meta["categories"]
    classes = {kinds[0]: None, kinds[1]: "thing", "*": "rest"}
    found = VideoRecords(
        open_index(under(Videos(path), FORMATS_OF_VIDEOS[0], as_map(classes)), tmp_path / "cache"), keep_empty=True
    )
    assert found.index.meta["categories"] == ["thing", "rest"]
    for before, after in zip(plain, found, strict=True):
        wanted = [("thing" if one.category == 1 else "rest", one.id) for one in before.objects if one.category]
        assert [(found.index.meta["categories"][one.category], one.id) for one in after.objects] == wanted
    gone = sum(not one.category for record in plain for one in record.objects)
    assert gone > 0
    assert found.whole().total("num_left_out") == gone


def test_the_protocol_of_lvis_keeps_its_classes_and_free_words_have_none(tmp_path: Path) -> None:
    write(tmp_path / "a.json")
    formats, context = Formats.of(), DataContext(root=tmp_path, cache=tmp_path / "cache", variant="tiny", seed=0)
    for format, words in (("LVIS v1", "as they are"), ("Visual Genome phrases", "free words")):
        entry = Validation(format=format, annotations="a.json", classes={"person": "man"})
        with pytest.raises(RecipeError, match=words) as raised:
            open_entry("yard", entry, context, formats, tasks=tuple(TASKS), options=Recipe)
        assert raised.value.do


def test_sizes_are_judged_by_the_areas_of_the_file_under_any_names(tmp_path: Path) -> None:
    """A box of 9801 pixels whose object the file calls small stays small when classes are renamed."""
    path = write(tmp_path / "a.json")
    tree = json.loads(path.read_text())
    for one in tree["annotations"]:
        one |= {"bbox": [0, 0, 99, 79], "segmentation": [[0, 0, 99, 0, 99, 79, 0, 79]], "area": 400}
    path.write_text(json.dumps(tree))
    for truth in (path, records(path, tmp_path / "cache", {"lift truck": "forklift"})):
        judge = CocoEvaluator(truth, iou_types=("bbox",))
        figures = judge.summarise([{"image_id": 1, "boxes": [], "scores": [], "labels": []}])
        assert "bbox/APs" in figures
        assert "bbox/APl" not in figures


def test_set_takes_a_map_with_null_and_a_list(tmp_path: Path) -> None:
    write(tmp_path / "a.json")
    entry = "data.sources.yard={weight: 1.0, format: COCO instances, annotations: a.json, classes: {pallet: null}}"
    stage, _ = resolve(STAGE, sets=(entry,))
    assert stage.data.sources["yard"].classes == {"pallet": ""}
    stage, _ = resolve(STAGE, sets=(entry, "data.sources.yard.classes=[person]"))
    assert stage.data.sources["yard"].classes == {"person": "person", "*": ""}


@pytest.mark.parametrize("kind", ["text", "mixed"])
def test_ids_of_images_and_annotations_may_be_text(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.json")
    tree = json.loads(path.read_text())
    renamed_ids = {1: "scan-0001", 2: "scan-0002" if kind == "text" else 2}
    for image in tree["images"]:
        image["id"] = renamed_ids[image["id"]]
    for number, one in enumerate(tree["annotations"]):
        one["image_id"], one["id"] = renamed_ids[one["image_id"]], f"ann-{number}"
    path.write_text(json.dumps(tree))
    found = records(path, tmp_path / "cache", None)
    assert {record.id: len(record.objects) for record in found} == {renamed_ids[1]: 4, renamed_ids[2]: 1}
    for truth in (path, found):
        judge = CocoEvaluator(truth, iou_types=("bbox",))
        boxes = torch.tensor([[20.0 * n, 10, 20 * n + 15, 40] for n in (1, 2, 3, 4)])
        judge.update(None, [Prediction("scan-0001", (80, 100), boxes, torch.ones(4), torch.arange(4)),
                            Prediction(renamed_ids[2], (80, 100), boxes[2:3], torch.ones(1), torch.tensor([2]))])  # type: ignore[arg-type]  # fmt: skip
        assert judge.summarise(judge.state())["bbox/AP"] == pytest.approx(1.0)
    tree["images"][1]["id"] = "scan-0001"
    path.write_text(json.dumps(tree))
    with pytest.raises(Exception, match="occurs more than once"):
        records(path, tmp_path / "cache", None)
