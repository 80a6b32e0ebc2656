"""A few golden cases as tests; `python -m mmcore_glamm.parity` runs all of them."""

import mmcore_glamm.parity as package
import pytest
from mmcore.parity import checks_of, main
from safetensors.torch import load_file, save_file

KINDS = checks_of(package)

CASES = (
    "keys_published", "keys_training", "keys_sam_vit_h", "merge_main_lora", "component_main_sam",
    "component_main_losses", "train_main_seg_lora", "train_main_seg_uneven", "train_main_caption_lora",
    "infer_main_generate", "infer_main_teacher_forced", "text_main_postprocess", "tokenizer_main", "schedule_main_lr",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_our_numbers_are_those_of_the_published_code(shared, name, capsys):
    assert main("glamm", KINDS, ["-q", str(shared / "goldens" / "glamm" / name)]) == 0, capsys.readouterr().out


def test_a_changed_number_fails(shared, tmp_path, capsys):
    case = tmp_path / "goldens" / "component_main_losses"
    case.mkdir(parents=True)
    for file in (shared / "goldens" / "glamm" / "component_main_losses").iterdir():
        (case / file.name).write_bytes(file.read_bytes())
    stored = load_file(case / "tensors.safetensors")
    stored["out.bce_count7"] = stored["out.bce_count7"] * 1.001
    save_file(stored, case / "tensors.safetensors")
    assert main("glamm", KINDS, ["-q", str(case)]) == 1
    assert "FAIL" in capsys.readouterr().out
