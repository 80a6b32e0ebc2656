"""Golden cases of the model as tests; `python -m mmcore_griffon.parity` runs all of them."""

from pathlib import Path

import mmcore_griffon.parity as package
import pytest
from mmcore.language import attention, capped
from mmcore.parity import checks_of, main

KINDS = checks_of(package)

CASES = (
    "keys_griffon_g_gemma2_27b",
    "keys_griffon_v1_13b",
    "pos_embed_resize",
    "projectors",
    "vision_tower",
    "splice_left_cut",
    "splice_right_cut",
    "forward_gemma_region",
    "forward_llama_truncated",
    "train_qwen_task",
    "generate_gemma_region",
    "stopping",
    "trainable_flags",
    "checkpoint_layout",
    "vision_r1_rewards",
)


@pytest.mark.parametrize("name", CASES)
def test_our_numbers_are_those_of_the_published_code(
    shared: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("griffon", KINDS, ["-q", str(shared / "goldens/griffon" / name)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["forward_gemma_sft", "forward_gemma_truncated"])
def test_capped_attention_in_blocks_gives_the_published_numbers(
    shared: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attention, "FEW", 8)
    monkeypatch.setattr(capped, "BLOCK", 24)
    assert main("griffon", KINDS, ["-q", str(shared / "goldens/griffon" / name)]) == 0, capsys.readouterr().out
