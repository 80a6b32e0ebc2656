"""A few golden cases as tests; `python -m mmcore_glee.parity` runs all of them."""

import mmcore_glee.parity as package
import pytest
from mmcore.parity import checks_of, main

KINDS = checks_of(package)

CASES = (
    "keys_lite_stage1", "keys_lite_stage2", "backbone_r50", "vlfuse", "msdeform", "pixel_decoder_r50", "positions",
    "text_features", "prompt_template", "train_coco_teacher", "keys_pro_stage2", "backbone_eva",
    "train_eva_prompt", "infer_lsj", "track_loss",
    "train_video", "train_video_prompt", "infer_video", "infer_tao",
    "train_grounding", "train_prompt_point", "infer_coco",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_our_numbers_are_those_of_the_published_code(shared, name, capsys):
    assert main("glee", KINDS, ["-q", str(shared / "goldens" / "glee" / name)]) == 0, capsys.readouterr().out


def test_a_case_with_a_setting_unknown_here_is_listed_and_not_counted(shared, tmp_path, capsys):
    case = copied(shared, tmp_path, "backbone_r50")
    text = (case / "case.json").read_text()
    (case / "case.json").write_text(text.replace('"overrides": {', '"overrides": {"MODEL.NEW": 1,', 1))
    assert main("glee", KINDS, ["-q", str(case)]) == 1
    assert "not run, for the reasons given: backbone_r50" in capsys.readouterr().out


def copied(shared, tmp_path, name):
    case = tmp_path / "goldens" / name
    case.mkdir(parents=True)
    for file in (shared / "goldens" / "glee" / name).iterdir():
        (case / file.name).write_bytes(file.read_bytes())
    return case


def test_a_changed_number_fails(shared, tmp_path, capsys):
    case = copied(shared, tmp_path, "positions")
    text = (case / "case.json").read_text()
    (case / "case.json").write_text(text.replace("60", "61"))
    assert main("glee", KINDS, ["-q", str(case)]) == 1
    assert "FAIL" in capsys.readouterr().out
