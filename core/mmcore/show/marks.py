"""Objects on a picture: translucent masks, boxes, names where they cover least; several pictures on a sheet.

Small images are enlarged first, so names stay readable at any size. Colours are those of Okabe and Ito (2008), which
colour-blind people tell apart too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mmcore.contract.values import Box
from mmcore.geometry import masks
from mmcore.show.text import INK, PAPER, Colour, Face, Run, fit, missing_letters, readable, with_text

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
SMALLEST_SIDE, LARGEST_SIDE = 512, 2048
"""Pictures are enlarged until their longer side has at least the first, and reduced to at most the second, pixels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One object on a picture; coordinates in pixels of the image it is drawn on."""

    colour: Colour
    box_xyxy: Box | None = None
    mask: np.ndarray | None = None
    """(height, width), nonzero inside."""
    label: str = ""
    given: bool = False
    """Given by whoever asked, rather than found: its box is dashed."""


def draw_marks(image: Image.Image, marks: Sequence[Mark], runs: Sequence[Run] = ()) -> Image.Image:
    """The image with objects drawn on it, and text below; enlarged or reduced to a readable size.

    Args:
        image: any mode and size.
        marks: objects in pixels of `image`, the most important first.
        runs: text for below the picture, in order.
    """
    image = image.convert("RGB")
    side = max(image.size)
    scale = SMALLEST_SIDE / side if side < SMALLEST_SIDE else min(1.0, LARGEST_SIDE / side)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    factors = (size[0] / image.width, size[1] / image.height)
    picture = image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image.copy()
    picture = _blend(picture, marks)
    unit = max(1.0, max(size) / 512)
    boxes = [_scaled(mark.box_xyxy or _around(mark.mask), factors) for mark in marks]
    draw = ImageDraw.Draw(picture)
    # Drawn from the least to the most important, so that the best detections lie on top.
    for mark, box in reversed(list(zip(marks, boxes))):
        if mark.box_xyxy is not None and box is not None:
            outline = _dashed if mark.given else _outline
            outline(draw, box, mark.colour, max(2, round(2 * unit)))
    _labels(draw, size, marks, boxes, font_size=round(13 * unit))
    note = missing_letters([*(mark.label for mark in marks), *(run.text for run in runs)])
    if note:
        runs = [*runs, Run(f"\n{note}" if runs else note)]
    return with_text(picture, runs, font_size=round(14 * unit)) if runs else picture


def contact_sheet(
    images: Sequence[Image.Image], columns: int = 4, *, titles: Sequence[str] | None = None, cell: int = 512
) -> Image.Image:
    """Pictures side by side on one sheet, each at most `cell` pixels wide and high; rows are as high as the highest."""
    columns = max(1, min(columns, len(images)))
    margin, line = 8, 26 if titles else 0
    small = [image.convert("RGB") for image in images]
    for image in small:
        image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    tall = max((image.height for image in small), default=cell)
    rows = max(1, math.ceil(len(images) / columns))
    sheet = Image.new("RGB", (columns * (cell + margin) + margin, rows * (tall + margin + line) + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(small):
        x = margin + number % columns * (cell + margin)
        y = margin + number // columns * (tall + margin + line)
        sheet.paste(image, (x + (cell - image.width) // 2, y + line + (tall - image.height) // 2))
        if titles:
            font = Face(16)
            font.write(draw, (x, y + 4), fit(titles[number], font, cell), INK, middle=False)
    return sheet


# ---- objects ----


def _blend(picture: Image.Image, marks: Sequence[Mark], strength: float = 0.38) -> Image.Image:
    """Lay translucent masks over the picture, each with a solid edge."""
    if all(mark.mask is None for mark in marks):
        return picture
    canvas = np.asarray(picture, np.float32).copy()
    for mark in reversed(marks):
        if mark.mask is None or not mark.mask.any():
            continue
        grey = Image.fromarray((mark.mask != 0).astype(np.uint8) * 255)
        inside = np.asarray(grey.resize(picture.size, Image.Resampling.BILINEAR)) > 127
        colour = np.asarray(mark.colour, np.float32)
        canvas[inside] += strength * (colour - canvas[inside])
        canvas[_edge(inside)] = colour
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))


def _edge(inside: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch its outside."""
    padded = np.pad(inside, 1)
    core = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1]
    return inside & ~core


def _around(mask: np.ndarray | None) -> Box | None:
    return None if mask is None else masks.tight_box(mask)


def _scaled(box: Box | None, factors: tuple[float, float]) -> Box | None:
    if box is None or not all(math.isfinite(value) for value in box):
        return None
    x1, y1, x2, y2 = box
    # Predicted corners may be swapped; PIL refuses such rectangles.
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return x1 * factors[0], y1 * factors[1], x2 * factors[0], y2 * factors[1]


def _outline(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    """A box in its colour between two thin dark lines, so that it shows on any ground."""
    x1, y1, x2, y2 = box
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=width + 2)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _dashed(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    """A box in dashes of its colour on a thin dark line."""
    x1, y1, x2, y2 = box
    draw.rectangle(box, outline=INK, width=max(1, width // 2))
    dash = 5.0 * width
    for start, stop, across in ((x1, x2, True), (y1, y2, False)):
        at = start
        while at < stop:
            end = min(at + dash, stop)
            for edge in (y1, y2) if across else (x1, x2):
                line = (at, edge, end, edge) if across else (edge, at, edge, end)
                draw.line(line, fill=colour, width=width)
            at += 2 * dash


def _labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    marks: Sequence[Mark],
    boxes: Sequence[Box | None],
    font_size: int,
) -> None:
    """Write names, the most important first, each where it covers least of the names and boxes already there."""
    pad = max(2, font_size // 5)
    taken: list[Box] = []
    for mark, box in zip(marks, boxes):
        if not mark.label or box is None:
            continue
        font = Face(font_size)
        text = fit(mark.label, font, size[0] - 2 * pad)
        width, height = font.getlength(text) + 2 * pad, font_size + 2 * pad
        spots = _spots(box, width, height, size)
        others = [other for other in boxes if other is not None and other is not box]
        best = min(spots, key=lambda spot: _cost(spot, taken, others) + 0.01 * spots.index(spot))
        taken.append(best)
        draw.rectangle(best, fill=mark.colour)
        font.write(draw, (best[0] + pad, best[1] + height / 2), text, readable(mark.colour))


def _spots(box: Box, width: float, height: float, size: tuple[int, int]) -> list[Box]:
    """Where a name of this size may stand: at the corners of its box outside and inside, then in rows across it."""
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2), (x1, y1), (x2 - width, y1)]
    corners += [(x1, y2 - height), (x2 - width, y2 - height), (x2, y1), (x1 - width, y1)]
    rows = [(x1, y1 + step * height) for step in range(1, 12)]
    found = []
    for x, y in corners + rows:
        x, y = min(max(0.0, x), max(0.0, size[0] - width)), min(max(0.0, y), max(0.0, size[1] - height))
        found.append((x, y, x + width, y + height))
    return found


def _cost(spot: Box, taken: Sequence[Box], others: Sequence[Box]) -> float:
    """How much a name here would hide: covered names count far more than covered objects."""
    area = (spot[2] - spot[0]) * (spot[3] - spot[1])
    return (20 * sum(_shared(spot, one) for one in taken) + sum(_shared(spot, one) for one in others)) / area


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
