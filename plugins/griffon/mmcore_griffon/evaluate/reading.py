"""What the evaluations share: an answer kept as text, and its boxes read by the published rule."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Box, Id, Prediction

from mmcore_griffon.answers import Extracted, extract, says_nothing

Item = dict[str, Any]
"""One answer, JSON-serialisable: image_id, record_id, size, text, confidence."""
Boxes = Float32[np.ndarray, "boxes 4"]


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
    """

    def __init__(self, truths: Sequence[Truth] = ()) -> None:
        self.truths = truths
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

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Every question with the answer and the boxes read out of it, pixels."""
        return [
            {
                "image_id": truth.image_id,
                "record_id": item["record_id"],
                "said": truth.said,
                "truth": [list(box) for box in truth.boxes],
                "text": item["text"],
                "boxes": in_pixels(boxes_of(item["text"]), truth.size).tolist(),
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


def boxes_of(text: str) -> list[Extracted]:
    """The boxes of an answer; none where the published reader stops at a piece of it."""
    try:
        return extract(text)
    except ValueError:
        return []


def in_pixels(found: Sequence[Extracted], size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of a picture, in single precision as the published evaluation has them."""
    fractions = np.array([one.box[:4] for one in found], np.float32).reshape(-1, 4)
    height, width = size
    return fractions * np.array([width, height, width, height], np.float32)


def parse_rate(texts: Sequence[str]) -> float:
    """Share of the answers from which boxes were read, or which say that there are none."""
    read = [bool(boxes_of(text)) or says_nothing(text) for text in texts]
    return sum(read) / len(read) if read else 1.0


def overlaps(boxes: Boxes, others: Boxes) -> Float32[np.ndarray, "boxes others"]:
    """Intersection over union of every pair, as torchvision computes it; 0 where both boxes have no area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    union = area(boxes)[:, None] + area(others)[None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union != 0)


def area(boxes: Boxes) -> Float32[np.ndarray, " boxes"]:
    """Of each box."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def mean(values: Sequence[float] | Mapping[Any, float]) -> float:
    """Of at least one value."""
    return float(np.mean(list(values)))
