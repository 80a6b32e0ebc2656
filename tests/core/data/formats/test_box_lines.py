"""JSON Lines of boxes: every kind is read, and wrong lines are named by number."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.formats.box_lines import LineParser, LineScenes
from mmcore.data.index import open_index
from mmcore.errors import DataError

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
    (shown,) = opened(tmp_path, "VISJ", {**DET, "dataset_name": "OBJ365", "image_path": "x/patch7/o.jpg"})
    assert shown.image == "x/patch7/o.jpg", "those of detection alone, as published"


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
