"""The golden cases of words, sampling and samples agree, and a wrong number in one of them is noticed."""

import json
import shutil

import pytest
from mmcore.parity import main
from mmcore_glee.parity.data import KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_published_numbers_are_ours(shared, kind, capsys):
    code = main("glee", KINDS, ["-q", str(shared / "goldens/glee" / kind)])
    assert code == 0, capsys.readouterr().out


def change(path, edit):
    """A copy of a case with one stored value changed."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "edit", "line"),
    [
        ("data_coco", lambda case: case["records"][0]["annotations"][0].update(category_id=1), "records"),
        ("data_coco", lambda case: case["masks_rle"]["multiscale.1.0.masks"].reverse(), "multiscale.1.0.masks"),
        ("data_refcoco", lambda case: case["samples"]["multiscale.0.0"].update(expressions="a dog"), "expressions"),
        ("data_refcoco", lambda case: case["samples"]["lsj.1.0"].update(dropped=True), "dropped"),
        ("sampler", lambda case: case["batches"][0].reverse(), "batches"),
        ("vocabularies", lambda case: case["names"]["coco"].reverse(), "names.coco"),
    ],
)
def test_a_wrong_number_is_noticed(shared, tmp_path, capsys, kind, edit, line):
    shutil.copytree(shared / "goldens/glee" / kind, tmp_path / kind)
    change(tmp_path / kind / "case.json", edit)
    assert main("glee", KINDS, ["-q", str(tmp_path / kind)]) == 1
    failures = [text for text in capsys.readouterr().out.splitlines() if text.strip().startswith("FAIL ")]
    assert any(line in text for text in failures)


def test_steps_that_are_never_drawn_are_noticed(shared, tmp_path, capsys):
    shutil.copytree(shared / "goldens/glee/data_refcoco", tmp_path / "data_refcoco")

    def shorten(case):
        case["overrides"]["INPUT.MIN_SIZE_TRAIN"] = [48]

    change(tmp_path / "data_refcoco/case.json", shorten)
    assert main("glee", KINDS, ["-q", str(tmp_path / "data_refcoco")]) == 1
    assert "could be drawn" in capsys.readouterr().out
