"""COCO box average precision of answers in text (griffon/eval/eval_detection.py).

    bbox/AP, bbox/AP50, ...    pycocotools on the boxes of all answers, ranked by confidence
    parse_rate                 share of answers from which boxes were read

A box counts when its class is one of the file's and it has a confidence; the k-th confidence belongs to the k-th box
that was read. Classes are asked in lists of 80, so a file with more of them has several answers a picture.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcore.contract.values import Batch, Prediction
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.spoken_boxes import Item, item_of, parse_rate
from mmcore.geometry.boxes import xyxy_to_xywh

from mmcore_griffon.answers import read
from mmcore_griffon.evaluate.reading import boxes_of, read_boxes


class DetectionFromText(CocoEvaluator):
    """Average precision of boxes in text.

    Args:
        annotations: COCO JSON of the validation set; only its name where `truth` is given.
        truth: makes the same as a COCO data set, of records in another format.
        whole_names: take the whole of what stands before a box for its class, where the published reader takes what
            follows the last hyphen: own classes may be called "t-shirt".
    """

    def __init__(
        self, annotations: Path, *, truth: Callable[[], dict[str, Any]] | None = None, whole_names: bool = False
    ) -> None:
        super().__init__(annotations, iou_types=("bbox",))
        self._make_truth, self.whole_names = truth, whole_names

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
        return super().summarise(items) | {"parse_rate": parse_rate([item["text"] for item in items], read_boxes)}

    def _truth(self) -> dict[str, Any]:
        if self._dataset is None and self._make_truth is not None:
            self._dataset = self._make_truth()
        return super()._truth()

    def _read(self, item: Item) -> list[tuple[str, list[float], float | None]]:
        """Class, box (xywh, pixels) and confidence of everything that was read; 1 where the model tells none."""
        found, sure = (self._whole if self.whole_names else self._published)(item)
        scores = [1.0] * len(found) if sure is None else [*sure, *[None] * len(found)][: len(found)]
        return [(name, box, score) for (name, box), score in zip(found, scores)]

    def _published(self, item: Item) -> tuple[list[tuple[str, list[float]]], list[float] | None]:
        found = boxes_of(item["text"])
        # Sizes are taken of fractions, then made single precision and scaled.
        boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (one.box[:4] for one in found)]
        height, width = item["size"]
        pixels = np.array(boxes, np.float32).reshape(-1, 4) * np.array([width, height, width, height], np.float32)
        return list(zip([one.name for one in found], pixels.tolist())), item["confidence"]

    def _whole(self, item: Item) -> tuple[list[tuple[str, list[float]]], list[float] | None]:
        said = read(item["text"], tuple(item["size"]), item["confidence"] or ())
        boxes = xyxy_to_xywh(said["boxes_xyxy"]).tolist() if "boxes_xyxy" in said else []
        scores = said["scores"].tolist() if item["confidence"] and boxes else item["confidence"] and []
        return list(zip(said.get("names", ()), boxes)), scores
