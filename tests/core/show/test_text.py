"""Text in pictures: whatever a model says can be set, each letter by a font that has it."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from mmcore.show import text as texts
from mmcore.show.text import INK, PAPER, Face, missing_letters
from PIL import Image, ImageDraw

ODD = ["\x00\x1b\u200f", "\ud7ff\u0301\u0301", "\U000e0001a", "\u202e\u2066\u0600", "a\u0e33\u0e33", ""]
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.mark.parametrize("text", ODD)
def test_any_text_can_be_measured(text: str) -> None:
    assert Face(14).getlength(text) >= 0


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> str:
    """A letter that one of two fonts has, as only the system's font has CJK."""
    paths = FONTS / "DejaVuSans.ttf", FONTS / "DejaVuSerif.ttf"
    first, second = map(texts._letters, paths)
    monkeypatch.setattr(texts, "_fonts", lambda: paths)
    return chr(min(second - first))


def drawn(text: str, face: Face) -> np.ndarray:
    rgb = Image.new("RGB", (200, 60), PAPER)
    face.write(ImageDraw.Draw(rgb), (10, 30), text, INK)
    return np.asarray(rgb)


def test_each_letter_is_drawn_by_a_font_that_has_it(only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    face = Face(14)
    assert missing_letters([f"{only} 0.50"]) is None
    assert face.getlength(f"{only}0.50") == face.getlength(only) + face.getlength("0.50")
    both = drawn(f"0{only}", face)
    monkeypatch.setattr(texts, "_fonts", lambda: (FONTS / "DejaVuSans.ttf",))
    assert missing_letters([f"{only} 0.50"]) == (
        "(1 letter has no glyph in this machine's fonts; a font such as Noto Sans CJK may show what is missing)"
    )
    assert not np.array_equal(both, drawn(f"0{only}", Face(14))), "an empty box was drawn"


def test_text_of_one_font_stands_as_that_font_sets_it() -> None:
    rgb = Image.new("RGB", (200, 60), PAPER)
    font = texts._font(FONTS / "DejaVuSans.ttf", 14)
    ImageDraw.Draw(rgb).text((10, 30), "Ωμέγα 0.50", font=font, fill=INK, anchor="lm")
    assert np.array_equal(np.asarray(rgb), drawn("Ωμέγα 0.50", Face(14)))
