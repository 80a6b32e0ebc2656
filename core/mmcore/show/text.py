"""Text in pictures: fonts with Latin, Greek, Cyrillic and, where the system has one, CJK letters; lines, highlights.

Matplotlib ships DejaVu Sans, so every machine has the first three. Each letter is drawn by the first font that has it,
since a font with CJK letters may have no others. One that no font has is drawn as an empty box, and `missing_letters`
says so below the picture, rather than leaving a reader to guess.
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


class Face:
    """All fonts of this machine in one size, as one font.

    Args:
        size: pixels.
    """

    def __init__(self, size: int) -> None:
        self._fonts = [(_letters(path), _font(path, max(8, size))) for path in _fonts()]

    def getlength(self, text: str) -> float:
        """How wide a text is, pixels."""
        return sum(font.getlength(piece) for piece, font in self._pieces(text))

    def write(
        self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: Colour, *, middle: bool = True
    ) -> None:
        """Draw a text whose left end is `at`, by the middle of its height or by its top."""
        pieces = self._pieces(text)
        if len(pieces) < 2:
            for piece, font in pieces:
                draw.text(at, piece, font=font, fill=fill, anchor="lm" if middle else "la")
            return
        ascent, descent = self._fonts[0][1].getmetrics()
        x, line = at[0], at[1] + ((ascent - descent) / 2 if middle else ascent)
        for piece, font in pieces:
            draw.text((x, line), piece, font=font, fill=fill, anchor="ls")
            x += font.getlength(piece)

    def _pieces(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """The text cut where its font changes; blanks stay with what is before them."""
        pieces: list[tuple[str, ImageFont.FreeTypeFont]] = []
        for letter in text:
            known = (font for letters, font in self._fonts if ord(letter) in letters)
            font = pieces[-1][1] if pieces and letter.isspace() else next(known, self._fonts[0][1])
            if pieces and pieces[-1][1] is font:
                pieces[-1] = pieces[-1][0] + letter, font
            else:
                pieces.append((letter, font))
        return pieces


def missing_letters(texts: Iterable[str]) -> str | None:
    """A line for below a picture when its texts have letters that no font here has; None when all can be drawn."""
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    lost = {letter for letter in letters if all(ord(letter) not in _letters(path) for path in _fonts())}
    if not lost:
        return None
    many = "1 letter has" if len(lost) == 1 else f"{len(lost)} letters have"
    return f"({many} no glyph in this machine's fonts; a font such as Noto Sans CJK may show what is missing)"


@lru_cache(maxsize=1)
def _fonts() -> tuple[Path, ...]:
    """DejaVu Sans and, where the system has one, a font with CJK letters."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    found = [Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"]
    system = sorted(Path(path) for path in findSystemFonts())
    return (*found, *[path for path in system if path.name.startswith(_CJK)][:1])


def families() -> list[str]:
    """The same fonts by the names that Matplotlib knows them by, for the words of a figure."""
    from matplotlib.font_manager import FontProperties, fontManager

    for path in _fonts():
        fontManager.addfont(str(path))
    return [FontProperties(fname=str(path)).get_name() for path in _fonts()]


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
    font, margin = Face(font_size), font_size // 2
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
        font.write(draw, (left, top + line / 2), word, ink)
    return sheet


def lay_out(runs: Sequence[Run], font: Face, width: float) -> list[tuple[float, int, str, Colour | None]]:
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


def _words(text: str, font: Face, width: float) -> list[str]:
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


def fit(text: str, font: Face, width: float) -> str:
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
