"""The JSON Lines of every kind: read, wrong lines named by number, and turned into what is asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.index import open_index
from mmcore.errors import DataError
from mmcore_griffon.data.lines import LineParser, LineScenes
from mmcore_griffon.data.questions import NUM_CLASSES, classes, enumerated, pose
from mmcore_griffon.data.readback import refuse_unreadable
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
    path = tmp_path / f"{kind}.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return LineScenes(open_index(LineParser(path, kind), tmp_path / "cache"))


def test_a_line_becomes_names_with_boxes_as_the_file_has_them(tmp_path: Path) -> None:
    (scene,) = opened(tmp_path, "DET", DET)
    assert (scene.image, scene.size, scene.names) == ("a.jpg", (90, 40), ("dog", "cat", "boat"))
    assert scene.boxes[1] == ((1, 2, 15, 30), (2.5, 50, 38, 88))
    assert type(scene.boxes[1][0][0]) is int, "whole numbers stay whole"
    assert scene.rows() == (["dog", "cat", "cat"], [(20.5, 2, 30, 40), (1, 2, 15, 30), (2.5, 50, 38, 88)])


@pytest.mark.parametrize(
    ("kind", "line", "names", "boxes"),
    [
        ("REC", REC, ("the cup",), (((4.0, 5, 33, 77),),)),
        ("VG", {**VG, "bboxes": []}, ("man in t-shirt",), ((),)),
        ("REG", {**VG, "bboxes": [1, 2, 3, 4]}, ("man in t-shirt",), (((1, 2, 3, 4),),)),
        ("REG", {**VG, "expression": ["a", "b"], "bboxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}, ("a",), (((1, 2, 3, 4),),)),
        ("REG", {**VG, "bboxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}, ("man in t-shirt",), (((1, 2, 3, 4), (5, 6, 7, 8)),)),
    ],
)
def test_expressions_and_descriptions_in_every_published_form(tmp_path, kind, line, names, boxes) -> None:
    (scene,) = opened(tmp_path, kind, line)
    assert (scene.names, scene.boxes) == (names, boxes)


def test_paths_of_objects365_keep_their_last_two_parts(tmp_path: Path) -> None:
    (scene,) = opened(tmp_path, "DET", {**DET, "dataset_name": "OBJ365", "image_path": "/mnt/x/patch7/o.jpg"})
    assert scene.image == "patch7/o.jpg"


@pytest.mark.parametrize(
    ("kind", "line", "what"),
    [
        ("DET", '{"image_path": "a.jpg"', "not valid JSON"),
        ("DET", "[1, 2]", "the line is a list, not an object"),
        ("DET", {**DET, "image_path": "../a.jpg"}, "climbs out"),
        ("DET", {k: v for k, v in DET.items() if k != "width"}, "height and width are 90 and None"),
        ("DET", {**DET, "objects": [{"category_name": "", "bboxes": []}]}, "class name '' is no text"),
        ("DET", {**DET, "objects": [{"category_name": "a", "bboxes": [[1, 2, 3]]}]}, "not four finite numbers"),
        ("DET", {**DET, "objects": [{"category_name": "a", "bboxes": [[30, 2, 10, 5]]}]}, "turned around"),
        (
            "DET",
            {**DET, "objects": [{"category_name": "a", "bboxes": [[30, 2, 70, 5]]}]},
            "30 pixels outside",
        ),
        ("VISJ", {**DET, "objects": []}, "the list of classes is empty"),
        ("VISJ", {**DET, "objects": [{"category_name": "a", "bboxes": []}]}, "nothing can be shown"),
        ("VG", {**VG, "expression": "  "}, "is no text"),
        ("VG", {**VG, "expression": "the <image>"}, "holds <image>"),
        ("VG", {**VG, "bboxes": None}, "bboxes None is no list"),
        ("REG", {**VG, "bboxes": []}, "a description needs a box"),
        ("REC", {**REC, "bbox": [[1, 2, 3, 4]]}, "not four finite numbers"),
    ],
)
def test_a_wrong_line_keeps_its_place_and_is_told_by_number(tmp_path: Path, kind, line, what) -> None:
    good = {"DET": DET, "VISJ": DET, "VG": VG, "REG": VG, "REC": REC}[kind]
    scenes = opened(tmp_path, kind, good, "", line, good)
    assert [scenes.unusable(place) for place in range(3)] == [False, True, False]
    with pytest.raises(DataError) as caught:
        scenes[1]
    assert what in caught.value.what
    assert f"{kind}.jsonl, line 3" in str(caught.value.where)
    assert [what in problem.what for problem in scenes.problems()] == [True]


def test_lines_of_detection_without_a_class_are_left_out_and_told(tmp_path: Path) -> None:
    scenes = opened(tmp_path, "DET", DET, {**DET, "objects": []}, DET)
    assert len(scenes) == 2
    (problem,) = scenes.problems()
    assert "the list of classes is empty" in problem.what
    assert "line 2" in str(problem.where)


# ---- what is asked ----


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


def test_descriptions_are_asked_by_place(tmp_path: Path) -> None:
    asked = drawn(opened(tmp_path, "REG", VG), "REG", 0)
    assert asked.answer == "man in t-shirt"
    assert "[0.100,0.055,0.825,0.855]" in asked.question


# ---- read back ----


def test_a_name_that_cannot_be_read_back_stops_before_training(tmp_path: Path) -> None:
    wrong = {**DET, "objects": [{"category_name": "salt & pepper", "bboxes": [[1, 2, 15, 30]]}]}
    scenes = opened(tmp_path, "DET", DET, wrong, wrong)
    with pytest.raises(DataError) as caught:
        refuse_unreadable(scenes, ("DET",), 1022, tmp_path)
    assert "2 of 3 training answers cannot be read back" in caught.value.what
    assert "salt & pepper" in caught.value.what
    assert str(caught.value.where).endswith("DET.jsonl, line 2")
    refuse_unreadable(scenes, ("VISJ",), 1022, tmp_path)  # boxes alone have no names


def test_what_was_read_back_once_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = opened(tmp_path, "DET", DET)
    refuse_unreadable(scenes, ("DET",), 1022, tmp_path)
    monkeypatch.setattr(LineScenes, "__getitem__", lambda *args: pytest.fail("read again"))
    refuse_unreadable(scenes, ("DET",), 1022, tmp_path)


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
