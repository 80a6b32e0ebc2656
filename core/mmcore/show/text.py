"""Text in pictures: fonts with Latin, Greek, Cyrillic and, where the system has one, CJK letters; lines, highlights.

Matplotlib ships DejaVu Sans, so every machine has the first three. A letter that no font has is drawn as an empty
box, and `missing_letters` says so below the picture, rather than leaving a reader to guess.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
INK, PAPER, FAINT = (24, 24, 28), (255, 255, 255), (150, 150, 156)
_CJK = ("NotoSansCJK", "NotoSansSC", "NotoSansJP", "SourceHanSans", "wqy-", "DroidSansFallback", "msyh", "PingFang")
"""How files of fonts with Chinese, Japanese and Korean letters begin."""


class Run(NamedTuple):
    """A piece of the text under a picture; with a colour it is highlighted."""

    text: str
    colour: Colour | None = None


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has all letters of a text, else the one that lacks fewest."""
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    path = min(_fonts(), key=lambda one: len(wanted - _letters(one)))
    return _font(path, max(8, size))


def missing_letters(texts: Iterable[str]) -> str | None:
    """A line for below a picture when its texts have letters that no font here has; None when all can be drawn."""
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    lost = {letter for letter in letters if all(ord(letter) not in _letters(path) for path in _fonts())}
    if not lost:
        return None
    return f"({len(lost)} letters have no glyph in this machine's fonts; a font such as Noto Sans CJK shows them)"


@lru_cache(maxsize=1)
def _fonts() -> tuple[Path, ...]:
    """DejaVu Sans and, where the system has one, a font with CJK letters."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    found = [Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"]
    system = sorted(Path(path) for path in findSystemFonts())
    return (*found, *[path for path in system if path.name.startswith(_CJK)][:1])


@lru_cache(maxsize=4)
def _letters(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())


@lru_cache(maxsize=32)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # Raqm, where there is one, refuses some texts that an untrained model says, and sets others in its own way.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def with_text(picture: Image.Image, runs: Sequence[Run], font_size: int) -> Image.Image:
    """The picture with a strip below it that holds the text, broken into lines."""
    said = "".join(run.text for run in runs)
    font, margin = font_for(said, font_size), font_size // 2
    line = round(font_size * 1.5)
    placed = lay_out(runs, font, picture.width - 2 * margin)
    num_lines = 1 + max((row for _, row, _, _ in placed), default=0)
    sheet = Image.new("RGB", (picture.width, picture.height + num_lines * line + 2 * margin), PAPER)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for x, row, word, colour in placed:
        left, top = margin + x, picture.height + margin + row * line
        if colour is not None:
            draw.rectangle((left - 1, top + 1, left + font.getlength(word) + 1, top + line - 2), fill=colour)
        ink = INK if colour is None else readable(colour)
        draw.text((left, top + line / 2), word, font=font, fill=ink, anchor="lm")
    return sheet


def lay_out(
    runs: Sequence[Run], font: ImageFont.FreeTypeFont, width: float
) -> list[tuple[float, int, str, Colour | None]]:
    """Words with their place: x in pixels, number of the line, the text with the blank before it, colour."""
    placed: list[tuple[float, int, str, Colour | None]] = []
    x, row = 0.0, 0
    for run in runs:
        for paragraph, text in enumerate(run.text.split("\n")):
            if paragraph:
                x, row = 0.0, row + 1
            for word in _words(text, font, width):
                if x > 0 and x + font.getlength(word) > width:
                    x, row, word = 0.0, row + 1, word.lstrip()
                if word:
                    placed.append((x, row, word, run.colour))
                    x += font.getlength(word)
    # A trailing line break would leave an empty line.
    return placed


def _words(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Words, each with the blanks before it; one wider than a line is cut."""
    words: list[str] = []
    start = 0
    for i in range(1, len(text)):
        if text[i] == " " and text[i - 1] != " ":
            words.append(text[start:i])
            start = i
    pieces: list[str] = []
    for word in [*words, text[start:]]:
        while len(word) > 1 and font.getlength(word) > width:
            cut = max(1, int(len(word) * width / font.getlength(word)))
            pieces.append(word[:cut])
            word = word[cut:]
        pieces.append(word)
    return pieces


def fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text in one line, shortened with an ellipsis when it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def readable(colour: Colour) -> Colour:
    """Dark or light ink, whichever is easier to read on this colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return INK if luminance > 110 else PAPER
