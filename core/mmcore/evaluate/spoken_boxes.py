"""Boxes in answers of words: referring expressions, phrases, counts, whatever a family's way to write them.

    Expressions   RefCOCO and its kin: the first box of the answer
    Phrases       Flickr30k Entities: R@1 against any box of a phrase, and against all of them merged
    Counts        FSC-147 and its kin: how many boxes an answer to a visual prompt has

A family gives `read`: the boxes of a text as fractions of the picture's sides, none where it says that there are none,
and None where nothing can be read out of it. Each evaluation tells its `parse_rate`, the share of answers that could.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Box, Id, Prediction

Item = dict[str, Any]
"""One answer, JSON-serialisable: image_id, record_id, size, text, confidence."""
Boxes = Float32[np.ndarray, "boxes 4"]
Read = Callable[[str], Sequence[Sequence[float]] | None]
"""xyxy, fractions."""


class Truth(NamedTuple):
    """What one question should have been answered with."""

    image_id: Id
    said: str
    """The expression or phrase asked about, or the description asked for."""
    boxes: tuple[Box, ...]
    """xyxy, pixels of a picture of this size."""
    size: tuple[int, int]
    """Height and width, pixels."""


class TextEvaluator(Evaluator):
    """Keeps answers; a subclass says what they are worth.

    Args:
        truths: by the number of the question, which is the `record_id` of its prediction.
        read: the boxes of an answer.
    """

    def __init__(self, truths: Sequence[Truth], read: Read) -> None:
        self.truths, self.read = truths, read
        self._items: list[Item] = []

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the answers of one batch."""
        self._items += [item_of(one) for one in predictions]

    def state(self) -> list[Item]:
        """One item an answer."""
        return self._items

    def answered(self, items: Sequence[Item]) -> list[tuple[Truth, Item]]:
        """Every question that was asked, once, with what was said."""
        once = {item["record_id"]: item for item in reversed(items)}
        return [(self.truths[number], once[number]) for number in sorted(once)]

    def found(self, truth: Truth, item: Item) -> Boxes:
        """The boxes of an answer, pixels."""
        return in_pixels(self.read(item["text"]) or (), truth.size)

    def parse_rate(self, items: Sequence[Item]) -> float:
        """Share of the answers from which boxes were read, or which say that there are none."""
        return parse_rate([item["text"] for item in items], self.read)

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Every question with the answer and the boxes read out of it, pixels."""
        return [
            {
                "image_id": truth.image_id,
                "record_id": item["record_id"],
                "said": truth.said,
                "truth": [list(box) for box in truth.boxes],
                "text": item["text"],
                "boxes": self.found(truth, item).tolist(),
            }
            for truth, item in self.answered(items)
        ]


def item_of(prediction: Prediction) -> Item:
    """One prediction as plain values."""
    return {
        "image_id": prediction.image_id,
        "record_id": prediction.record_id,
        "size": list(prediction.size),
        "text": prediction.text or "",
        "confidence": list(prediction.measures["confidence"]) if "confidence" in prediction.measures else None,
    }


def in_pixels(found: Sequence[Sequence[float]], size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of a picture, in single precision as the published evaluation has them."""
    fractions = np.array(found, np.float32).reshape(-1, 4)
    height, width = size
    return fractions * np.array([width, height, width, height], np.float32)


def parse_rate(texts: Sequence[str], read: Read) -> float:
    """Share of the texts of which `read` makes something."""
    return mean([read(text) is not None for text in texts]) if texts else 1.0


def overlaps(boxes: Boxes, others: Float32[np.ndarray, "others 4"]) -> Float32[np.ndarray, "boxes others"]:
    """Intersection over union of every pair, as torchvision computes it; 0 where both boxes have no area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    union = area(boxes)[:, None] + area(others)[None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union != 0)


def area(boxes: Boxes) -> Float32[np.ndarray, " boxes"]:
    """Of each box."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return float(np.mean(values))


# ---- protocols ----

HIT = 0.5
GUESSES = 500
"""True boxes that are tried as the commonest one."""


class Expressions(TextEvaluator):
    """Share of expressions whose first box overlaps the true one by strictly more than a half.

    accuracy@0.5    an answer without a box is wrong
    bbox/P@0.5      the same, under the name that RefCOCO's own evaluation has for it
    chance          what the one box reaches that is right most often, drawn at the same share of every picture
    parse_rate      share of answers from which a box was read
    """

    metric_names = ("accuracy@0.5", "bbox/P@0.5", "chance", "parse_rate")  # type: ignore[assignment]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The figures, fractions."""
        answered = self.answered(items)
        if not answered:
            return {}
        accuracy = mean([_hit(truth, self.found(truth, item)) for truth, item in answered])
        chance = commonest([truth for truth, _ in answered])
        rate = self.parse_rate([item for _, item in answered])
        return {"accuracy@0.5": accuracy, "bbox/P@0.5": accuracy, "chance": chance, "parse_rate": rate}


def _hit(truth: Truth, found: Boxes) -> bool:
    meant = _pixels(truth.boxes[:1])
    if not len(found) or not len(meant):
        return False
    # As published: a true box of no width at 0 or 1 pixel counts as a miss.
    if any(meant[0, axis] == meant[0, axis + 2] == edge for axis in (0, 1) for edge in (0.0, 1.0)):
        return False
    return bool(overlaps(found[:1], meant)[0, 0] > HIT)


def commonest(truths: Sequence[Truth]) -> float:
    """Accuracy of always naming the one box that is right most often, taken from the true ones themselves."""
    boxes = np.array([_fractions(truth) for truth in truths if truth.boxes], np.float32).reshape(-1, 4)
    if not len(boxes):
        return 0.0
    step = -(-len(boxes) // GUESSES)
    return float((overlaps(boxes[::step], boxes) > HIT).sum(axis=1).max() / len(truths))


class Phrases(TextEvaluator):
    """Recall of phrases: Flickr30k Entities, R@1 at an overlap of at least a half.

        any         the first box of the answer against whichever box of the phrase it fits best
        merged      the hull of the answer's boxes against the hull of the phrase's; assumed: the answer is merged too
        parse_rate  share of answers from which boxes were read

    A phrase without a box is right when the answer names none.
    """

    metric_names = ("any", "merged", "parse_rate")  # type: ignore[assignment]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The figures, fractions."""
        answered = self.answered(items)
        if not answered:
            return {}
        pairs = [_recalled(truth, self.found(truth, item)) for truth, item in answered]
        rate = self.parse_rate([item for _, item in answered])
        return {"any": mean([one for one, _ in pairs]), "merged": mean([one for _, one in pairs]), "parse_rate": rate}


def _recalled(truth: Truth, found: Boxes) -> tuple[bool, bool]:
    meant = _pixels(truth.boxes)
    if not len(meant) or not len(found):
        right = len(found) == len(meant)
        return right, right
    return bool(overlaps(found[:1], meant).max() >= HIT), bool(overlaps(_hull(found), _hull(meant))[0, 0] >= HIT)


def _hull(boxes: Boxes) -> Float32[np.ndarray, "1 4"]:
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]


class Counts(TextEvaluator):
    """How far the number of boxes is off, over questions with a visual prompt.

    MAE, RMSE    mean absolute and root mean squared difference
    NAE, SRE     the same relative to the true number: mean of |d| / n, root of the mean of d^2 / n
    parse_rate   share of answers from which boxes were read
    """

    metric_names = ("MAE", "RMSE", "NAE", "SRE", "parse_rate")  # type: ignore[assignment]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The figures; numbers of objects."""
        answered = self.answered(items)
        if not answered:
            return {}
        number = np.array([len(truth.boxes) for truth, _ in answered], np.float64)
        off = np.array([len(self.found(truth, item)) for truth, item in answered]) - number
        return {
            "MAE": float(np.abs(off).mean()),
            "RMSE": float(np.sqrt((off**2).mean())),
            "NAE": float((np.abs(off) / number).mean()),
            "SRE": float(np.sqrt((off**2 / number).mean())),
            "parse_rate": self.parse_rate([item for _, item in answered]),
        }


def _pixels(boxes: Sequence[Box]) -> Boxes:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _fractions(truth: Truth) -> tuple[float, ...]:
    height, width = truth.size
    x0, y0, x1, y1 = truth.boxes[0]
    return x0 / width, y0 / height, x1 / width, y1 / height
