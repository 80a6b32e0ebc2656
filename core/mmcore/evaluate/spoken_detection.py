"""COCO box average precision of answers in text, whatever a family's way to write boxes (Griffon, Zhan et al. 2024).

    bbox/AP, bbox/AP50, ...    pycocotools on the boxes of all answers, ranked by confidence
    parse_rate                 share of answers from which boxes were read

A box counts when its class is one of the file's and it has a confidence; the k-th confidence belongs to the k-th box
that was read. Where classes are asked in several lists, a picture has several answers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcore.contract.values import Batch, Prediction
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.spoken_boxes import Item, Read, item_of, parse_rate

Named = Callable[[Item], tuple[list[tuple[str, list[float]]], list[float] | None]]
"""Of an answer: class and box (xywh, pixels) of all that was read, and the confidences where the model tells any."""


class DetectionFromText(CocoEvaluator):
    """Average precision of boxes in text.

    Args:
        annotations: COCO JSON of the validation set; only its name where `truth` is given.
        read: the boxes of an answer, for the parse rate.
        named: the boxes of an answer with their classes and confidences.
        truth: makes the same as a COCO data set, of records in another format.
    """

    def __init__(
        self, annotations: Path, read: Read, named: Named, *, truth: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        super().__init__(annotations, iou_types=("bbox",))
        self._make_truth, self.read, self.named = truth, read, named

    @property
    def metric_names(self) -> tuple[str, ...]:
        """COCO's, and the parse rate."""
        return (*super().metric_names, "parse_rate")

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the answers of one batch."""
        self._items += [item_of(one) for one in predictions]

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Detections in COCO's result format, image by image."""
        ids = {category["name"]: category["id"] for category in self._truth()["categories"]}
        once = {(item["image_id"], item["record_id"]): item for item in reversed(items)}
        found = []
        for _, item in sorted(once.items(), key=lambda pair: (str(pair[0][0]), pair[0][1] or 0)):
            for name, box, score in self._read(item):
                if name in ids and score is not None:
                    one = {"image_id": item["image_id"], "category_id": ids[name], "bbox": box, "score": score}
                    found.append(one)
        return found

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """COCO's figures and the parse rate."""
        return super().summarise(items) | {"parse_rate": parse_rate([item["text"] for item in items], self.read)}

    def _truth(self) -> dict[str, Any]:
        if self._dataset is None and self._make_truth is not None:
            self._dataset = self._make_truth()
        return super()._truth()

    def _read(self, item: Item) -> list[tuple[str, list[float], float | None]]:
        """Class, box (xywh, pixels) and confidence of everything that was read; 1 where the model tells none."""
        found, sure = self.named(item)
        scores = [1.0] * len(found) if sure is None else [*sure, *[None] * len(found)][: len(found)]
        return [(name, box, score) for (name, box), score in zip(found, scores)]
