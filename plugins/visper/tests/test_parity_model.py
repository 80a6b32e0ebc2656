"""A few golden cases as tests; `python -m mmcore_visper.parity` runs all of them."""

import mmcore_visper.parity as package
import pytest
from mmcore.parity import checks_of, main

KINDS = checks_of(package)

CASES = (
    "keys_ift_clipvit_phi3", "keys_probe_seg_convnext_llama3", "comp_resampler", "comp_heads", "comp_emb_loss",
    "comp_contrastive_two_ranks", "comp_towers", "pt_llama38_mixed_mask",
    "phi3_sliding_window", "train_pt",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_our_numbers_are_those_of_the_published_code(shared, name, capsys):
    assert main("visper", KINDS, ["-q", str(shared / "goldens" / "visper" / name)]) == 0, capsys.readouterr().out


def test_a_changed_number_fails(shared, tmp_path, capsys):
    case = tmp_path / "goldens" / "comp_emb_loss"
    case.mkdir(parents=True)
    for file in (shared / "goldens" / "visper" / "comp_emb_loss").iterdir():
        (case / file.name).write_bytes(file.read_bytes())
    text = (case / "case.json").read_text()
    (case / "case.json").write_text(text.replace('"logit_scale": 1.9', '"logit_scale": 2.1'))
    assert main("visper", KINDS, ["-q", str(case)]) == 1
    assert "FAIL" in capsys.readouterr().out
