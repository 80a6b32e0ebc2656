"""What an answer says of boxes, and how sure the model was: written, read and scored as the published code does.

    cat-[0.102,0.250,0.398,0.750]&dog-[0.511,0.020,0.720,0.333]      class or expression, box, `&`
    [0.102,0.250,0.398,0.750]&[...]                                  to a visual prompt: boxes alone
    None, ['None']                                                   nothing was annotated, nothing is left

The one convention: fractions of the picture's width and height, left, top, right, bottom, three decimals. Everything
else that people bring is converted by `mmcore.geometry.coordinates` before it gets here. Published quirks kept
(griffon/coor_utils.py of jefferyZhan/Griffon): coordinates pass through the frame of the squashed picture, where lists
of whole numbers are cut to whole pixels; sorted boxes pass through single precision; boxes on an edge are left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmcore.contract.values import Box, Phrase
from mmcore.geometry.box_text import BoxText, ParsedBoxes, unlike_itself
from mmcore.geometry.coordinates import CONVENTIONS
from mmcore.language.confidence import Marks

BOXES = BoxText(convention=CONVENTIONS["three decimals"])
"""How Griffon writes boxes."""
EMPTY = "None"
"""The answer where an expression means nothing in the picture."""
NOTHING_LEFT = "['None']"
"""The answer where every box lies on an edge: a Python list, as the published code prints it."""

Size = tuple[int, int]


class Answer(NamedTuple):
    """A written answer."""

    text: str
    rows: tuple[int, ...]
    """The boxes that are in it, in its order."""


def write(
    boxes: Sequence[Box], size: Size, side: int, names: Sequence[str] | None = None, *, from_left: bool = False
) -> Answer:
    """An answer of boxes.

    Args:
        boxes: xyxy, pixels of the original picture; a list of nothing but whole numbers is cut to whole pixels.
        size: height and width of the original picture, pixels.
        side: of the square that the model sees, pixels.
        names: of the boxes; None writes boxes alone.
        from_left: sort them by their left side (detection and visual prompts); else they stay in order.
    """
    if not len(boxes):
        return Answer(EMPTY, ())
    numbers = np.asarray(boxes)
    height, width = size
    across, down = side / width, side / height
    framed = numbers * np.array([across, down, across, down])
    framed = np.trunc(framed) if numbers.dtype.kind == "i" else framed
    order, frame = np.arange(len(framed)), (height * down, width * across)
    if from_left:
        single = framed.astype(np.float32)
        order, frame = single[:, 0].argsort(kind="stable"), (side, side)
        framed = single[order].astype(np.float64)
    named = None if names is None else [names[row] for row in order.tolist()]
    written = BOXES.write(framed, frame, named)
    if not written.rows:
        return Answer(NOTHING_LEFT, ())
    return Answer(written.text, tuple(int(order[row]) for row in written.rows))


def unreadable(boxes: Sequence[Box], size: Size, side: int, names: Sequence[str] | None = None) -> str | None:
    """Why a training answer cannot be read back as it was meant; None when it can.

    Args:
        boxes: as `write` takes them.
        size: as `write` takes it.
        side: as `write` takes it.
        names: as `write` takes them.
    """
    if not len(boxes):
        return None
    whole = np.asarray(boxes).dtype.kind == "i"
    allowed = max(size) / side if whole else 0.0
    return unlike_itself(BOXES, np.asarray(boxes, np.float64), size, names, slack=allowed + 1e-6)


# ---- reading ----

_BOX = re.compile(r"(\[\d{1,}\.\d{3},\d{1,}\.\d{3},\d{1,}\.\d{3},\d{1,}\.\d{3}\])")
UNNAMED = "target"
"""What the published reader calls a box without a class."""


class Extracted(NamedTuple):
    """One box as the published reader takes it out of an answer."""

    name: str
    """What stands between the last two hyphens: of "t-shirt" it is "shirt"."""
    box: tuple[float, ...]
    """Left, top, right, bottom, fractions of the picture."""


def extract(text: str) -> list[Extracted]:
    """The boxes of an answer by the published rule (griffon/eval/run_griffon.py), for published metrics.

    Raises:
        ValueError: a piece has a box and something behind its last hyphen that is none; the published evaluation then
            takes nothing of the whole answer.
    """
    found = []
    for piece in text.strip().split(BOXES.between):
        boxes = _BOX.findall(piece)
        if not boxes:
            continue
        name, numbers = piece.split("-")[-2:] if "-" in piece else (UNNAMED, boxes[0])
        box = tuple(float(number) for number in numbers.translate(_BRACKETS).split(","))
        if len(box) < 4:
            raise ValueError(f"{numbers!r} is no box")
        if box[2] >= box[0] and box[3] >= box[1]:
            found.append(Extracted(name, box))
    return found


_BRACKETS = str.maketrans("", "", "()[]")


def says_nothing(text: str) -> bool:
    """Whether an answer is that there is nothing."""
    return text.strip() in (EMPTY, NOTHING_LEFT)


def read(text: str, size: Size, confidence: Sequence[float] = ()) -> dict[str, Any]:
    """What an answer says, as fields of a `Prediction`: whole names, and every box that can be read.

    Args:
        text: of the answer, special tokens left out.
        size: height and width of the original picture, pixels.
        confidence: from `confidence`, one for each box in order; those without one count as 0.

    Returns:
        `text`, and where there are boxes `boxes_xyxy`, `names`, `scores`, `phrases`; `unread`, and the confidences
        under `measures`, for the published evaluation counts them otherwise.
    """
    parsed: ParsedBoxes = BOXES.read(text, size)
    fields: dict[str, Any] = {"text": text, "unread": parsed.unread}
    if confidence:
        fields["measures"] = {"confidence": tuple(confidence)}
    if not parsed.found:
        return fields
    names = tuple(one.name or UNNAMED for one in parsed.found)
    # A box that is turned around has a confidence too, so they go by the separators before a box.
    places = [text.count(BOXES.between, 0, one.end) for one in parsed.found]
    scores = [confidence[place] if place < len(confidence) else 0.0 for place in places]
    return fields | {
        "boxes_xyxy": torch.from_numpy(parsed.boxes_xyxy),
        "names": names,
        "scores": torch.tensor(scores, dtype=torch.float32) if confidence else None,
        "phrases": tuple(Phrase(0, one.start, one.end, (row,)) for row, one in enumerate(parsed.found)),
    }


# ---- confidence ----


def marks(vocabulary: Mapping[str, int]) -> Marks | None:
    """The tokens of a tokenizer: Gemma 2 has both signs merged with their bracket (200348, 50648), LLaMA2 alone (29987,
    29899). None where it has neither, so nothing can be scored.

    assumed: other tokenizers, for which the published code has no rule, go by the same two pairs.
    """
    for box, name in (("]&", "-["), ("&", "-")):
        if box in vocabulary and name in vocabulary:
            return Marks(vocabulary[box], vocabulary[name])
    return None
