"""Golden cases of the model as tests; `python -m mmcore_griffon.parity` runs all of them."""

from pathlib import Path

import pytest
from mmcore.parity import main
from mmcore_griffon.parity.__main__ import kinds

CASES = (
    "keys_griffon_g_gemma2_27b",
    "keys_griffon_v1_13b",
    "pos_embed_resize",
    "projectors",
    "vision_tower",
    "splice_left_cut",
    "splice_right_cut",
)


@pytest.mark.parametrize("name", CASES)
def test_our_numbers_are_those_of_the_published_code(
    shared: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("griffon", kinds(), ["-q", str(shared / "goldens/griffon" / name)]) == 0, capsys.readouterr().out
