"""Pictures for people: objects with masks, boxes and names on an image, text with its phrases in the objects' colours.

Small images are enlarged first, so names stay readable at any size; names are placed where they cover least. Colours
are those of Okabe and Ito (2008), which colour-blind people tell apart too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmcore.contract.values import DetectionBatch, Prediction, Sample
from mmcore.geometry import masks
from mmcore.geometry.boxes import cxcywh_to_xyxy

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

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

_INK, _PAPER = (24, 24, 28), (255, 255, 255)


class Run(NamedTuple):
    """A piece of the text under a picture; with a colour it is highlighted."""

    text: str
    colour: Colour | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """One object on a picture; coordinates in pixels of the image it is drawn on."""

    colour: Colour
    box_xyxy: Box | None = None
    mask: np.ndarray | None = None
    """(height, width), nonzero inside."""
    label: str = ""


def draw_prediction(
    image: Image.Image, prediction: Prediction, threshold: float = 0.0, *, top: int | None = None
) -> Image.Image:
    """The image with what was predicted on it: objects scoring at least `threshold`, the best `top` of them.

    Text stands below the picture, its phrases in the colours of the objects they mean.
    """
    kept = select(prediction, threshold, top)
    colours = {row: PALETTE[place % len(PALETTE)] for place, row in enumerate(kept)}
    boxes = None if prediction.boxes_xyxy is None else prediction.boxes_xyxy.tolist()
    marks = [
        Mark(
            colours[row],
            None if boxes is None else tuple(boxes[row]),
            None if prediction.masks is None else masks.decode(prediction.masks[row]),
            _label(prediction, row),
        )
        for row in kept
    ]
    return draw_marks(image, marks, _phrase_runs(prediction, colours))


def select(prediction: Prediction, threshold: float, top: int | None = None) -> list[int]:
    """Rows of the objects that score at least `threshold`, best first, at most `top`."""
    if prediction.scores is None:
        count = len(prediction.boxes_xyxy if prediction.boxes_xyxy is not None else prediction.masks or ())
        return list(range(count))[:top]
    scores = prediction.scores.tolist()
    kept = [row for row, score in enumerate(scores) if score >= threshold]
    return sorted(kept, key=lambda row: -scores[row])[:top]


def draw_sample(sample: Sample, *, names: Sequence[str] | None = None) -> Image.Image:
    """What a transform made of one record: the image as the network gets it, with its objects and its expression.

    Args:
        sample: boxes and masks in pixels of its image.
        names: vocabulary that `sample.labels` index; without it labels are shown as numbers.
    """
    image = Image.fromarray(sample.image.permute(1, 2, 0).cpu().numpy())
    labels = sample.names or _named(sample.labels.tolist(), names, sample.expression)
    bitmaps = [None] * len(labels) if sample.masks is None else list(sample.masks.cpu().numpy())
    marks = [
        Mark(PALETTE[i % len(PALETTE)], tuple(box), bitmap, label)
        for i, (box, bitmap, label) in enumerate(zip(sample.boxes_xyxy.tolist(), bitmaps, labels))
    ]
    height, width = sample.original_size
    facts = f"{sample.draw.source} record {sample.draw.position}, image {sample.image_id}: "
    facts += f"{width}x{height} became {image.width}x{image.height}"
    return draw_marks(image, marks, [*_expression_runs(sample.expression, marks), Run(facts)])


def draw_row(batch: DetectionBatch, row: int, *, names: Sequence[str] | None = None) -> Image.Image:
    """One image of a batch as the network gets it, padding included (a thin line shows where the image ends).

    Args:
        batch: objects flat over the batch.
        row: which image.
        names: vocabulary that the labels index; by default the batch's own, where it has one.
    """
    first, count = sum(batch.num_objects[:row]), batch.num_objects[row]
    image = Image.fromarray(batch.images[row].permute(1, 2, 0).cpu().numpy())
    boxes = cxcywh_to_xyxy(batch.boxes_cxcywh[first : first + count].cpu()).numpy()
    boxes = boxes * (image.width, image.height, image.width, image.height)
    expressions = getattr(batch, "expressions", None)
    expression = expressions[row] if expressions else None
    vocabulary = names if names is not None else getattr(batch, "names", None)
    labels = _named(batch.labels[first : first + count].tolist(), vocabulary, expression)
    bitmaps = [None] * count if batch.masks is None else list(batch.masks[first : first + count].cpu().numpy())
    marks = [
        Mark(PALETTE[i % len(PALETTE)], tuple(box), bitmap, label)
        for i, (box, bitmap, label) in enumerate(zip(boxes.tolist(), bitmaps, labels))
    ]
    height, width = batch.image_sizes[row]
    if (height, width) != (image.height, image.width):
        ImageDraw.Draw(image).rectangle((0, 0, width - 1, height - 1), outline=(150, 150, 150))
    facts = f"{batch.source} record {batch.draws[row].position}, image {batch.image_ids[row]}: "
    facts += f"{width}x{height} in {image.width}x{image.height}"
    return draw_marks(image, marks, [*_expression_runs(expression, marks), Run(facts)])


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
            _outline(draw, box, mark.colour, max(2, round(2 * unit)))
    _labels(draw, size, marks, boxes, font_size=round(13 * unit))
    return _with_text(picture, runs, font_size=round(14 * unit)) if runs else picture


def contact_sheet(
    images: Sequence[Image.Image], columns: int = 4, *, titles: Sequence[str] | None = None, cell: int = 512
) -> Image.Image:
    """Pictures side by side on one sheet, each inside a square cell of `cell` pixels."""
    columns = max(1, min(columns, len(images)))
    margin, line = 8, 26 if titles else 0
    rows = max(1, math.ceil(len(images) / columns))
    sheet = Image.new("RGB", (columns * (cell + margin) + margin, rows * (cell + margin + line) + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        x = margin + number % columns * (cell + margin)
        y = margin + number // columns * (cell + margin + line)
        small = image.convert("RGB")
        small.thumbnail((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(small, (x + (cell - small.width) // 2, y + line + (cell - small.height) // 2))
        if titles:
            draw.text((x, y + 4), _fit(titles[number], _font(16), cell), font=_font(16), fill=_INK)
    return sheet


# ---- what is written ----


def _label(prediction: Prediction, row: int) -> str:
    name = prediction.names[row] if prediction.names else ""
    if not name and prediction.labels is not None:
        name = f"label {int(prediction.labels[row])}"
    score = "" if prediction.scores is None else f"{float(prediction.scores[row]):.2f}"
    return f"{name} {score}".strip()


def _named(labels: Sequence[int], names: Sequence[str] | None, expression: str | None) -> list[str]:
    if expression is not None:
        return [""] * len(labels)
    return [names[label] if names is not None and 0 <= label < len(names) else str(label) for label in labels]


def _expression_runs(expression: str | None, marks: Sequence[Mark]) -> list[Run]:
    if expression is None:
        return []
    return [Run(expression, marks[0].colour if marks else None), Run("\n")]


def _phrase_runs(prediction: Prediction, colours: dict[int, Colour]) -> list[Run]:
    """The text cut at its phrases; a phrase of which no object is shown stays plain."""
    if not prediction.text:
        return []
    runs, at = [], 0
    for phrase in sorted(prediction.phrases):
        shown = [colours[row] for row in phrase.objects if row in colours]
        if not shown or phrase.start < at:
            continue
        runs += [Run(prediction.text[at : phrase.start]), Run(prediction.text[phrase.start : phrase.end], shown[0])]
        at = phrase.end
    return [run for run in [*runs, Run(prediction.text[at:])] if run.text]


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
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_INK, width=width + 2)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    marks: Sequence[Mark],
    boxes: Sequence[Box | None],
    font_size: int,
) -> None:
    """Write names, the most important first, each where it covers least of the names and boxes already there."""
    font, pad = _font(font_size), max(2, font_size // 5)
    taken: list[Box] = []
    for mark, box in zip(marks, boxes):
        if not mark.label or box is None:
            continue
        text = _fit(mark.label, font, size[0] - 2 * pad)
        width, height = font.getlength(text) + 2 * pad, font_size + 2 * pad
        spots = _spots(box, width, height, size)
        others = [other for other in boxes if other is not None and other is not box]
        best = min(spots, key=lambda spot: _cost(spot, taken, others) + 0.01 * spots.index(spot))
        taken.append(best)
        draw.rectangle(best, fill=mark.colour)
        draw.text((best[0] + pad, best[1] + height / 2), text, font=font, fill=_readable(mark.colour), anchor="lm")


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


# ---- text ----


def _with_text(picture: Image.Image, runs: Sequence[Run], font_size: int) -> Image.Image:
    """The picture with a strip below it that holds the text, broken into lines."""
    font, margin = _font(font_size), font_size // 2
    line = round(font_size * 1.5)
    placed = _lay_out(runs, font, picture.width - 2 * margin)
    num_lines = 1 + max((row for _, row, _, _ in placed), default=0)
    sheet = Image.new("RGB", (picture.width, picture.height + num_lines * line + 2 * margin), _PAPER)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for x, row, word, colour in placed:
        left, top = margin + x, picture.height + margin + row * line
        if colour is not None:
            draw.rectangle((left - 1, top + 1, left + font.getlength(word) + 1, top + line - 2), fill=colour)
        ink = _INK if colour is None else _readable(colour)
        draw.text((left, top + line / 2), word, font=font, fill=ink, anchor="lm")
    return sheet


def _lay_out(
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


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text in one line, shortened with an ellipsis when it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _readable(colour: Colour) -> Colour:
    """Dark or light ink, whichever is easier to read on this colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return _INK if luminance > 110 else _PAPER


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(max(8, size))
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
