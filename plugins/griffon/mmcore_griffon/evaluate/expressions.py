"""Where a text says something is: accuracy on referring expressions, phrase grounding, counts.

Expressions   RefCOCO and its kin: the first box of the answer (griffon/eval/eval_rec.py)
Phrases       Flickr30k Entities: R@1 against any box of a phrase, and against all of them merged
Counts        FSC-147 and its kin: how many boxes an answer to a visual prompt has
"""

from collections.abc import Sequence

import numpy as np
from mmcore.contract.values import Box

from mmcore_griffon.evaluate.reading import (
    Boxes,
    Item,
    TextEvaluator,
    Truth,
    boxes_of,
    in_pixels,
    mean,
    overlaps,
    parse_rate,
)

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
        accuracy = mean([_hit(truth, item["text"]) for truth, item in answered])
        chance = commonest([truth for truth, _ in answered])
        rate = parse_rate([item["text"] for _, item in answered])
        return {"accuracy@0.5": accuracy, "bbox/P@0.5": accuracy, "chance": chance, "parse_rate": rate}


def _hit(truth: Truth, text: str) -> bool:
    found, meant = in_pixels(boxes_of(text)[:1], truth.size), _pixels(truth.boxes[:1])
    if not len(found) or not len(meant):
        return False
    # As published: a true box of no width at 0 or 1 pixel counts as a miss.
    if any(meant[0, axis] == meant[0, axis + 2] == edge for axis in (0, 1) for edge in (0.0, 1.0)):
        return False
    return bool(overlaps(found, meant)[0, 0] > HIT)


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
        pairs = [_recalled(truth, item["text"]) for truth, item in answered]
        rate = parse_rate([item["text"] for _, item in answered])
        return {"any": mean([one for one, _ in pairs]), "merged": mean([one for _, one in pairs]), "parse_rate": rate}


def _recalled(truth: Truth, text: str) -> tuple[bool, bool]:
    found, meant = in_pixels(boxes_of(text), truth.size), _pixels(truth.boxes)
    if not len(meant) or not len(found):
        right = len(found) == len(meant)
        return right, right
    return bool(overlaps(found[:1], meant).max() >= HIT), bool(overlaps(_hull(found), _hull(meant))[0, 0] >= HIT)


def _hull(boxes: Boxes) -> Boxes:
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
        off = np.array([len(boxes_of(item["text"])) for _, item in answered]) - number
        return {
            "MAE": float(np.abs(off).mean()),
            "RMSE": float(np.sqrt((off**2).mean())),
            "NAE": float((np.abs(off) / number).mean()),
            "SRE": float(np.sqrt((off**2 / number).mean())),
            "parse_rate": parse_rate([item["text"] for _, item in answered]),
        }


def _pixels(boxes: Sequence[Box]) -> Boxes:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _fractions(truth: Truth) -> tuple[float, ...]:
    height, width = truth.size
    x0, y0, x1, y1 = truth.boxes[0]
    return x0 / width, y0 / height, x1 / width, y1 / height
