"""What is wrong with a list of tasks or with a line of its files, as `mmcore` says it: line, fault, exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore import cli
from mmcore_griffon.data.demo import write_demo

DET = {"image_path": "000000.jpg", "height": 130, "width": 140, "dataset_name": "shapes"}
VG = {"image_path": "000000.jpg", "height": 130, "width": 140, "expression": "it", "bboxes": [[1, 2, 30, 40]]}
COMMANDS = (["data", "check"], ["plan"], ["train", "--out", "nowhere"])
GOOD = [{"category_name": "triangle", "bboxes": [[28, 0, 70, 39]]}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data"), train=4, val=2)


def said(command: list[str], root: Path, listed: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and words of a command on a list with one sound line and `listed`."""
    path = root / "list.txt"
    path.write_text(f"LAZY_0 & text.json & /\n{listed}\n", encoding="utf-8")
    where = ["--plugin", "griffon", "--variant", "tiny", "--stage", "pretrain", "--data", str(root)]
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, *where, "--set", f"data.list={path}", "--set", "validation={}"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(stop.value.code or 0), " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("line", "what", "number"),
    [
        ("DET_1 & det.jsonl", "2 parts between `&`, not 3", 2),
        ("DOT_1 & det.jsonl & griffon/pictures", "there is no task type 'DOT'", 2),
        ("DET_1 & lost.jsonl & griffon/pictures", "lost.jsonl is not there", 2),
        ("DET_1 & det.jsonl & lost", "lost is not there", 2),
    ],
    ids=["parts", "task", "annotation", "folder"],
)
def test_a_wrong_line_of_the_list_stops_every_command(
    root: Path, tmp_path: Path, monkeypatch, capsys, command: list[str], line: str, what: str, number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    code, words = said(command, root, line, capsys)
    assert code == 1
    assert what in words
    assert f"list.txt, line {number}" in words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "line", "what", "field"),
    [
        ("DET", "{", "not valid JSON", "the whole line"),
        ("DET", {**DET, "image_path": "lost.jpg", "objects": GOOD}, "image is missing", "lost.jpg"),
        (
            "DET",
            {**DET, "objects": [{"category_name": "cat", "bboxes": [[150, 0, 160, 20]]}]},
            "box [150, 0, 160, 20] lies 20 pixels outside its 140x130 picture",
            "boxes of 'cat'",
        ),
        (
            "DET",
            {**DET, "objects": [{"category_name": "cat", "bboxes": [[9, 9, 5, 20]]}]},
            "is turned around: boxes are [x0, y0, x1, y1]",
            "boxes of 'cat'",
        ),
        ("DET", {**DET, "objects": []}, "the list of classes is empty; the line is left out", "objects"),
        ("VISJ", {**DET, "objects": []}, "the list of classes is empty", "field objects"),
        ("VG", {**VG, "bboxes": None}, "bboxes None is no list", "field bboxes"),
        ("VG", {**VG, "height": "tall"}, "height and width are 'tall' and 140", "fields height and width"),
        ("VG", {**VG, "expression": " "}, "expression ' ' is no text", "field expression"),
        ("VG", {**VG, "expression": "look at <image>"}, "holds <image>, which stands for a picture", "expressions"),
        ("REG", {**VG, "bboxes": []}, "a description needs a box", "field bboxes"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_wrong_line_of_a_file_is_told_with_its_number(
    root: Path, capsys, task: str, line: Any, what: str, field: str
) -> None:
    sound = VG if task in ("VG", "REG") else {**DET, "objects": GOOD}
    lines = [sound, sound, line]
    (root / "griffon/wrong.jsonl").write_text(
        "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    )
    listed = f"{task}_0 & wrong.jsonl & griffon/pictures"
    code, words = said(["data", "check"], root, listed, capsys)
    assert code == 1
    assert what in words
    assert "wrong.jsonl, line 3" in words
    assert field in words
    assert "1 problem in 1 of 2 sources" in words
    if what != "image is missing":  # which is found when the picture is opened
        code, words = said(["plan"], root, listed, capsys)
        assert code == 0
        assert f"{task}_0: 1 x line" in words


def test_an_answer_that_cannot_be_read_back_stops_every_command(
    root: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    written = [json.dumps(one) for one in (VG, {**VG, "expression": "salt & pepper"})]
    (root / "griffon/wrong.jsonl").write_text("\n".join(written))
    for command in COMMANDS:
        code, words = said(command, root, "VG_0 & wrong.jsonl & griffon/pictures", capsys)
        assert code == 1
        assert "the name 'salt & pepper' comes back as 'pepper'" in words
        assert "wrong.jsonl, line 2" in words
    assert not list(tmp_path.iterdir())
