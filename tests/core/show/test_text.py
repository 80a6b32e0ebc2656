"""Text in pictures: whatever a model says can be set."""

import pytest
from mmcore.show.text import font_for

ODD = ["\x00\x1b\u200f", "\ud7ff\u0301\u0301", "\U000e0001a", "\u202e\u2066\u0600", "a\u0e33\u0e33", ""]


@pytest.mark.parametrize("text", ODD)
def test_any_text_can_be_measured(text: str) -> None:
    assert font_for(text, 14).getlength(text) >= 0
