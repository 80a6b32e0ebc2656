"""A strip of validation pictures: sixteen records, always the same, what was predicted beside what is true.

sheet      4 x 4 cells on one picture, each a prediction (left) and the truth (right), or a picture (left) and what
           was asked, answered and wanted (right)
over_time  the same few records in the strips of several steps, side by side, what stays the same beside them
"""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from mmcore.show.conversation import LEARNED, lines, stacked
from mmcore.show.marks import PALETTE
from mmcore.show.text import FAINT, INK, PAPER, Face, fit

RECORDS = 16
"""Records of a strip."""
COLUMNS = 4
SIDE = 320
"""Pixels of each half of a cell."""
_LINE, _GAP = 24, 8
_CELL = (2 * SIDE, SIDE + _LINE)
_FONT = 15


def positions(total: int) -> list[int]:
    """The records of a set that its strip shows: the same at every evaluation, spread over the set.

    >>> positions(5), positions(64)[:4]
    ([0, 1, 2, 3, 4], [0, 4, 8, 12])
    """
    count = min(total, RECORDS)
    return [number * total // count for number in range(count)]


def cell(title: str, left: Image.Image | None, right: Image.Image) -> Image.Image:
    """One record: its title above, both halves fitted side by side."""
    sheet = Image.new("RGB", _CELL, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = Face(_FONT)
    font.write(draw, (2, _LINE / 2), fit(title, font, 2 * SIDE - 4), INK)
    for picture, x in ((left, 0), (right, SIDE)):
        if picture is None:
            continue
        small = picture.convert("RGB")
        scale = min((SIDE - 4) / small.width, SIDE / small.height)
        size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
        small = small.resize(size, Image.Resampling.LANCZOS) if size != small.size else small
        sheet.paste(small, (x + (SIDE - small.width) // 2, _LINE + (SIDE - small.height) // 2))
    return sheet


def said(question: str, answer: str, wanted: str) -> Image.Image:
    """The right half of a cell of words: what was asked, answered and wanted; what has no room is cut off."""
    width = SIDE - 4
    told = [("question", question, None), ("answer", answer, LEARNED), ("wanted", wanted, PALETTE[2])]
    parts = []
    for label, text, colour in told if wanted else told[:2]:
        parts += [lines([label], width, ink=FAINT), lines([text or "(nothing)"], width, bar=colour)]
    panel = Image.new("RGB", (width, SIDE), PAPER)
    panel.paste(stacked(parts, width))
    return panel


def sheet(cells: Sequence[Image.Image], title: str) -> Image.Image:
    """Cells in rows of four, under one title."""
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    size = (columns * (_CELL[0] + _GAP) + _GAP, _LINE + rows * (_CELL[1] + _GAP) + _GAP)
    whole = Image.new("RGB", size, PAPER)
    Face(_FONT).write(ImageDraw.Draw(whole), (_GAP, _LINE / 2), title, FAINT)
    for number, one in enumerate(cells):
        whole.paste(one, _place(number))
    return whole


def over_time(
    strips: Sequence[tuple[str, Path]], *, words: bool = False, records: int = 6, steps: int = 5
) -> Image.Image:
    """The first records of several strips of one set: a row a record, a column a strip.

    Args:
        strips: title and file, in order; of many, some are taken, the first and the last among them.
        words: whether the strips are of answers in words; then the picture stands in the first column, else the truth
            in the last.
        records: rows at most.
        steps: columns at most.
    """
    strips = [strips[number] for number in _spread(len(strips), steps)]
    opened = [(title, Image.open(path).convert("RGB")) for title, path in strips]
    rows = min(records, *(_cells_in(image) for _, image in opened))
    height = SIDE + _GAP
    whole = Image.new("RGB", ((len(opened) + 1) * (SIDE + _GAP) + _GAP, 2 * _LINE + rows * height), PAPER)
    draw = ImageDraw.Draw(whole)
    last = opened[-1][1]
    columns = [("picture", last, 0), *((title, image, SIDE) for title, image in opened)]
    if not words:
        columns = [*((title, image, 0) for title, image in opened), ("truth", last, SIDE)]
    for column, (title, image, offset) in enumerate(columns):
        left = _GAP + column * (SIDE + _GAP)
        Face(_FONT).write(draw, (left, _LINE), title, INK)
        for row in range(rows):
            x, y = _place(row)
            part = image.crop((x + offset, y + _LINE, x + offset + SIDE, y + _LINE + SIDE))
            whole.paste(part, (left, 2 * _LINE + row * height))
    return whole


def _place(number: int) -> tuple[int, int]:
    row, column = divmod(number, COLUMNS)
    return _GAP + column * (_CELL[0] + _GAP), _LINE + _GAP + row * (_CELL[1] + _GAP)


def _cells_in(image: Image.Image) -> int:
    columns = (image.width - _GAP) // (_CELL[0] + _GAP)
    count = max(1, columns) * max(1, (image.height - _LINE - _GAP) // (_CELL[1] + _GAP))
    while count > 1 and _is_empty(image, count - 1):  # the last row may not be full
        count -= 1
    return count


def _is_empty(image: Image.Image, number: int) -> bool:
    x, y = _place(number)
    lowest = image.crop((x, y, x + _CELL[0], y + _CELL[1])).convert("L").getextrema()[0]
    return isinstance(lowest, int | float) and lowest > 240


def _spread(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, the first and the last among them.

    >>> _spread(3, 5), _spread(9, 3)
    ([0, 1, 2], [0, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]
