"""JSON Lines of every kind turned into what is asked, and read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.formats.box_lines import LineParser, LineScenes
from mmcore.data.index import open_index
from mmcore.data.names import enumerated
from mmcore.errors import DataError
from mmcore_griffon.data.assemble import read_back
from mmcore_griffon.data.questions import NUM_CLASSES, classes, pose
from mmcore_griffon.data.wordings import banks

WORDINGS = {name: bank.wordings for name, bank in banks().items()}
SIZE = {"height": 90, "width": 40}
DET = {
    "image_path": "a.jpg",
    "dataset_name": "COCO",
    **SIZE,
    "objects": [
        {"category_name": "dog", "bboxes": [[20.5, 2, 30, 40]]},
        {"category_name": "cat", "bboxes": [[1, 2, 15, 30], [2.5, 50, 38, 88]]},
        {"category_name": "boat", "bboxes": []},
    ],
}
VG = {"image_path": "a.jpg", **SIZE, "expression": "man in t-shirt", "bboxes": [[4, 5, 33, 77]]}
REC = {"img_path": "a.jpg", **SIZE, "expression": "the cup", "bbox": [4.0, 5, 33, 77]}


def opened(tmp_path: Path, kind: Any, *lines: Any) -> LineScenes:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"{kind}.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return LineScenes(open_index(LineParser(path, kind), tmp_path / "cache"))


def drawn(scenes: LineScenes, kind: Any, seed: int, **more: Any) -> Any:
    return pose(kind, scenes[0], WORDINGS, np.random.default_rng(seed), 1022, scenes.categories(), **more)


def test_detection_asks_for_the_classes_that_are_there_and_for_absent_ones(tmp_path: Path) -> None:
    others = [{"category_name": f"thing {number}", "bboxes": []} for number in range(100)]
    scenes = opened(tmp_path, "DET", DET, {**DET, "objects": others})
    asked = drawn(scenes, "DET", 0)
    named = classes(scenes[0], scenes.categories(), np.random.default_rng(0))
    assert len(named) == len(set(named)) == NUM_CLASSES
    assert {"dog", "cat"} <= set(named)
    assert asked.question.endswith("class name-[x1, y1, x2, y2], and concatenate them with &.")
    assert asked.question.count(", ") >= NUM_CLASSES - 1
    assert [piece.split("-[")[0] for piece in asked.answer.split("&")] == ["cat", "cat", "dog"], "from the left"
    assert asked.names == ("cat", "cat", "dog")
    assert drawn(scenes, "DET", 0) == asked
    assert drawn(scenes, "DET", 1).question != asked.question


def test_classes_that_are_said_to_be_absent_are_the_only_ones_drawn(tmp_path: Path) -> None:
    scene = opened(tmp_path, "DET", DET)[0]._replace(absent=("boat", "cup"))
    assert set(classes(scene, ["boat", "cup", "tree"], np.random.default_rng(0))) == {"dog", "cat", "boat", "cup"}


def test_few_classes_are_named_as_one_speaks(tmp_path: Path) -> None:
    asked = drawn(opened(tmp_path, "RANDDET", DET), "RANDDET", 0)
    assert ", and " in asked.question
    assert {"dog", "cat", "boat"} <= set(asked.question.replace(",", "").replace(".", "").replace("?", "").split())
    assert [enumerated(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b, and c"]


def test_a_visual_prompt_is_one_of_the_boxes_and_the_answer_has_no_names(tmp_path: Path) -> None:
    scenes = opened(tmp_path, "VISJ", DET)
    shown = {drawn(scenes, "VISJ", seed).example for seed in range(40)}
    assert shown == {(20.5, 2, 30, 40), (1, 2, 15, 30), (2.5, 50, 38, 88)}
    asked = drawn(scenes, "VISJ", 0)
    assert asked.names is None
    assert "-[" not in asked.answer
    assert asked.question.count("<region>") == 1


@pytest.mark.parametrize(
    ("line", "places"),
    [
        (VG, "[0.100,0.055,0.825,0.855]"),
        ({**VG, "bboxes": [4, 5, 33, 77]}, "[0.100,0.055,0.825,0.855]"),
        ({**VG, "bboxes": [[20.0, 9, 30, 45], [4, 5, 33, 77]]}, "[0.500,0.100,0.750,0.500]&[0.100,0.056,0.825,0.856]"),
        (
            {**VG, "expression": ["man in t-shirt", "other"], "bboxes": [[20, 9, 30, 45], [4, 5, 33, 77]]},
            "[0.500,0.100,0.750,0.500]",
        ),
        ({**VG, "bboxes": [0, 5, 0, 77]}, "['None']"),
    ],
    ids=["nested", "flat", "several in the file's order", "lists: the first of each", "on the edge"],
)
def test_descriptions_are_asked_by_place(tmp_path: Path, line: Any, places: str) -> None:
    asked = drawn(opened(tmp_path, "REG", line), "REG", 0)
    assert asked.answer == "man in t-shirt"
    assert places in asked.question
    assert ("&" in asked.question) == ("&" in places)


@pytest.mark.parametrize(
    ("boxes", "answer"),
    [
        ([], "None"),
        ([[0.0, 5, 0, 77]], "['None']"),
        ([[20.0, 9, 30, 45], [4, 45, 33, 72]], "it-[0.500,0.100,0.750,0.500]&it-[0.100,0.500,0.825,0.800]"),
    ],
    ids=["nowhere", "on the edge", "in the file's order"],
)
def test_an_expression_is_answered_as_published(tmp_path: Path, boxes: Any, answer: str) -> None:
    asked = drawn(opened(tmp_path, "VG", {**VG, "expression": "it", "bboxes": boxes}), "VG", 0)
    assert asked.answer == answer


@pytest.mark.parametrize("kind", ["DET", "RANDDET"])
def test_a_picture_without_any_box_is_answered_with_none(tmp_path: Path, kind: Any) -> None:
    asked = drawn(opened(tmp_path, kind, {**DET, "objects": DET["objects"][2:]}), kind, 0)  # type: ignore[index]
    assert asked.answer == "None"
    assert "boat" in asked.question


def test_a_question_names_as_many_classes_as_the_picture_has_and_as_the_file_can_give(tmp_path: Path) -> None:
    many = [{"category_name": f"thing {number}", "bboxes": [[1, 2, 15, 30]]} for number in range(NUM_CLASSES + 5)]
    crowded, small = opened(tmp_path, "DET", {**DET, "objects": many}), opened(tmp_path / "small", "DET", DET)
    for scenes, expected in ((crowded, NUM_CLASSES + 5), (small, 3)):
        assert len(classes(scenes[0], scenes.categories(), np.random.default_rng(0))) == expected


def test_a_class_called_like_a_number_spoils_no_answer_to_a_visual_prompt(tmp_path: Path) -> None:
    named = [{"category_name": name, "bboxes": [[1.0, 9, 20, 45]]} for name in ("0", "cup")]
    files = [opened(tmp_path / str(n), "VISJ", {**DET, "objects": [one]}) for n, one in enumerate(named)]
    assert {drawn(scenes, "VISJ", 0).answer for scenes in files} == {"[0.025,0.100,0.500,0.500]"}


# ---- read back ----


def test_a_name_that_cannot_be_read_back_stops_before_training(tmp_path: Path) -> None:
    wrong = {**DET, "objects": [{"category_name": "salt & pepper", "bboxes": [[1, 2, 15, 30]]}]}
    scenes = opened(tmp_path, "DET", DET, wrong, wrong)
    with pytest.raises(DataError) as caught:
        read_back(scenes, ("DET",), 1022, tmp_path)
    assert "2 of 3 training answers cannot be read back" in caught.value.what
    assert "salt & pepper" in caught.value.what
    assert str(caught.value.where).endswith("DET.jsonl, line 2")
    read_back(scenes, ("VISJ",), 1022, tmp_path)  # boxes alone have no names


def test_what_was_read_back_once_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = opened(tmp_path, "DET", DET)
    read_back(scenes, ("DET",), 1022, tmp_path)
    monkeypatch.setattr(LineScenes, "__getitem__", lambda *args: pytest.fail("read again"))
    read_back(scenes, ("DET",), 1022, tmp_path)


# ---- wordings ----

COUNTS = {"detect": (60, 32), "refer": (60, 38), "single": (54, 54), "describe": (125, 125), "similar": (60, 59)}


@pytest.mark.parametrize("name", COUNTS)
def test_banks_have_the_published_placeholders_and_numbers(name: str) -> None:
    bank = banks()[name]
    assert (len(bank.wordings), len(set(bank.wordings))) == COUNTS[name]
    for wording in bank.wordings:
        assert all(wording.count(placeholder) == 1 for placeholder in bank.placeholders)
        assert ("<image>" in wording) == ("<image>" in bank.placeholders)
        assert not wording.endswith("\n")
