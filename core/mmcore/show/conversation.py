"""Pictures of conversations for people: the tokens a language model reads, the learned ones marked, and answers beside
the picture they are about.

    token strip   one box a token in reading order; learned tokens are filled, features ("image x576") are grey
    answer        the picture on the left, question and answer on the right
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mmcore.language.sequence import Sequences
from mmcore.show.marks import PALETTE, SMALLEST_SIDE
from mmcore.show.text import FAINT, INK, PAPER, Colour, Face, missing_letters

LEARNED, FEATURE, WORD = PALETTE[1], (214, 214, 218), (255, 255, 255)
_FONT, _PAD, _GAP, _MARGIN, _BAR = 14, 4, 3, 10, 5


class Token(NamedTuple):
    """One box of a strip."""

    text: str
    learned: bool = False
    """Whether the model is trained to say it."""
    feature: bool = False
    """Whether it stands for rows that are no words."""


def tokens_of(sequences: Sequences, sample: int, text_of: Callable[[int], str]) -> list[Token]:
    """What one sample of a planned batch looks like to the language model.

    Args:
        sequences: the plan; on the CPU.
        sample: its number in the batch.
        text_of: vocabulary id -> what it says.

    Returns:
        Words one by one; runs of one kind of feature as one token, "image x576".
    """
    row, start, length = sequences.locations[sample]
    first = row * sequences.shape[1] + start
    kinds: list[str | None] = [None] * length
    for kind, positions in sequences.slots.items():
        for position in positions.tolist():
            if first <= position < first + length:
                kinds[position - first] = kind
    learned = {position + 1 for position in sequences.supervised.tolist()}
    ids = sequences.ids.flatten()[first : first + length].tolist()
    result: list[Token] = []
    for kind, group in groupby(range(length), key=lambda place: kinds[place]):
        places = list(group)
        if kind is not None:
            result.append(Token(f"{kind} x{len(places)}", feature=True))
        else:
            result += [Token(_visible(text_of(ids[place])), first + place in learned) for place in places]
    return result


def draw_tokens(tokens: Sequence[Token], width: int) -> Image.Image:
    """A strip of boxes, broken into lines of at most `width` pixels."""
    note = missing_letters(token.text for token in tokens)
    tokens = [*tokens, Token(note)] if note else tokens
    font = Face(_FONT)
    line = _FONT + 2 * _PAD + _GAP
    placed: list[tuple[float, int, Token]] = []
    x, row = float(_MARGIN), 0
    for token in tokens:
        wide = font.getlength(token.text) + 2 * _PAD
        if x > _MARGIN and x + wide > width - _MARGIN:
            x, row = float(_MARGIN), row + 1
        placed.append((x, row, token))
        x += wide + _GAP
    sheet = Image.new("RGB", (width, (row + 1) * line + 2 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, number, token in placed:
        top = _MARGIN + number * line
        box = (left, top, left + font.getlength(token.text) + 2 * _PAD, top + _FONT + 2 * _PAD)
        fill = FEATURE if token.feature else LEARNED if token.learned else WORD
        draw.rectangle(box, fill=fill, outline=FAINT)
        font.write(draw, (left + _PAD, (box[1] + box[3]) / 2), token.text, INK)
    return sheet


def draw_conversation(image: Image.Image | None, tokens: Sequence[Token], facts: str) -> Image.Image:
    """A sample as the network gets it: the picture, one line of facts, the token strip.

    Args:
        image: as the vision tower takes it, enlarged where it is small; None for text.
        tokens: from `tokens_of`.
        facts: source, record and sizes.
    """
    width = SMALLEST_SIDE if image is None else max(SMALLEST_SIDE, image.width)
    learned = sum(token.learned for token in tokens)
    parts = [_enlarged(image, width)] if image is not None else []
    parts.append(lines([facts, f"{learned} learned tokens are filled"], width, ink=FAINT))
    parts.append(draw_tokens(tokens, width))
    return stacked(parts, width)


def draw_answer(image: Image.Image, question: str, answer: str) -> Image.Image:
    """The picture on the left, what was asked and answered on the right.

    Args:
        image: as it is on disk; enlarged or reduced to a readable size.
        question: what was asked.
        answer: what the model said.
    """
    picture = image.convert("RGB")
    scale = SMALLEST_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    width = SMALLEST_SIDE * 3 // 4
    asked = lines(["question"], width, ink=FAINT), lines([question], width, font_size=20)
    said = lines(["answer"], width, ink=FAINT), lines([answer or "(nothing)"], width, font_size=24, bar=LEARNED)
    text = stacked([*asked, *said], width)
    sheet = Image.new("RGB", (picture.width + width, max(picture.height, text.height)), PAPER)
    sheet.paste(picture)
    sheet.paste(text, (picture.width, 0))
    return sheet


def as_picture(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """A normalised image as bytes again.

    Args:
        pixels: (3, height, width) float, as the network gets it.
        mean: that was taken away, per channel.
        std: that was divided by.
    """
    shown = pixels.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return Image.fromarray((shown * 255).round().clip(0, 255).astype(np.uint8))


def _visible(text: str) -> str:
    """Blanks and line ends as something that can be seen."""
    return text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "_") or "''"


def _enlarged(image: Image.Image, width: int) -> Image.Image:
    height = max(1, round(image.height * width / image.width))
    return image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)


def lines(
    texts: Sequence[str], width: int, *, font_size: int = _FONT, ink: Colour = INK, bar: Colour | None = None
) -> Image.Image:
    """Texts under each other, broken into lines between words; `bar` colours a bar on their left."""
    note = missing_letters(texts)
    texts = [*texts, note] if note else texts
    font = Face(font_size)
    room = width - 2 * _MARGIN - (_BAR + _PAD if bar is not None else 0)
    lines = [line for text in texts for line in _broken(text, font, room)]
    step = round(font_size * 1.4)
    sheet = Image.new("RGB", (width, len(lines) * step + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = _MARGIN
    if bar is not None:
        draw.rectangle((left, _MARGIN // 2, left + _BAR - 1, _MARGIN // 2 + len(lines) * step), fill=bar)
        left += _BAR + _PAD
    for number, line in enumerate(lines):
        font.write(draw, (left, _MARGIN // 2 + (number + 0.5) * step), line, ink)
    return sheet


def _broken(text: str, font: Face, width: float) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            while len(longer) > 1 and font.getlength(longer) > width:
                cut = max(1, int(len(longer) * width / font.getlength(longer)))
                lines.append(longer[:cut])
                longer = longer[cut:]
            line = longer
        lines.append(line)
    return lines


def stacked(parts: Sequence[Image.Image], width: int) -> Image.Image:
    """Pictures under each other on a sheet of this width."""
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
