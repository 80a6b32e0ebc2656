"""Referring expressions: one detection for every expression, compared with the one object that is meant.

    bbox/P@0.5 ... bbox/P@0.9   share of expressions whose box overlaps the object's by strictly more than that
    segm/oIoU                   sum of intersections over sum of unions, in pixels of full-size masks
    segm/mIoU                   mean of the mask overlaps

Fractions in [0, 1]; the protocol of GLEE's published evaluation, which prints them times 100. An image entry without a
detection, where the published code stops, counts as a miss. Only the last annotation of an entry is read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.evaluate.ground_truth import (
    Item,
    check_masks,
    ground_truth_mask,
    ground_truth_object,
    item_of,
    once_per_image,
    read_annotations,
)
from mmcore.geometry import masks

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class RefCocoEvaluator(Evaluator):
    """Box precision and mask IoU of referring predictions.

    Args:
        annotations: RefCOCO in COCO form: one image entry and one annotation per referred object.
        iou_types: "bbox", "segm" or both.
    """

    def __init__(self, annotations: Path, *, iou_types: Sequence[str] = ("bbox", "segm")) -> None:
        self.annotations = Path(annotations)
        self.iou_types = tuple(iou_types)
        self._dataset: dict[str, Any] | None = None
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Precision of boxes at each threshold, overall and mean IoU of masks."""
        boxes = tuple(f"bbox/P@{limit}" for limit in THRESHOLDS) if "bbox" in self.iou_types else ()
        return boxes + (("segm/oIoU", "segm/mIoU") if "segm" in self.iou_types else ())

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch; of several detections for an image the first best one counts."""
        self._items += [_best(item_of(prediction)) for prediction in predictions]

    def state(self) -> list[Item]:
        """One JSON item per image entry taken in."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Detections in COCO's result format, category 1."""
        found = []
        for item in once_per_image(items, self._sizes(), self.annotations):
            if not item["scores"]:
                continue
            one: dict[str, Any] = {"image_id": item["image_id"], "category_id": 1, "score": item["scores"][0]}
            if item["boxes"]:
                one["bbox"] = item["boxes"][0]
            if item.get("masks"):
                one["segmentation"] = item["masks"][0]
            found.append(one)
        return found

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every image entry among the items, each counted once.

        Raises:
            DataError: an entry that is not annotated, or a malformed mask.
            ShapeError: a predicted mask has another size than its image.
        """
        sizes = self._sizes()
        truth = self._truth()["annotations"]
        objects = {one["image_id"]: ground_truth_object(one, self.annotations) for one in truth}
        unique = [item for item in once_per_image(items, sizes, self.annotations) if item["image_id"] in objects]
        metrics: dict[str, float] = {}
        if not unique:
            return metrics
        if "bbox" in self.iou_types:
            overlaps = np.array([_box_iou(item, objects[item["image_id"]]) for item in unique])
            # Summed over the threshold itself: an overlap of exactly 0.5 is no hit.
            metrics |= {f"bbox/P@{limit}": float((overlaps > limit).mean()) for limit in THRESHOLDS}
        if "segm" in self.iou_types:
            found = [self._mask_overlap(item, objects[item["image_id"]], sizes[item["image_id"]]) for item in unique]
            inter, union, iou = (np.array(column, np.float64) for column in zip(*found))
            metrics |= {"segm/oIoU": float(inter.sum() / max(union.sum(), 1.0)), "segm/mIoU": float(iou.mean())}
        return metrics

    def _truth(self) -> dict[str, Any]:
        if self._dataset is None:
            self._dataset = read_annotations(self.annotations)
        return self._dataset

    def _sizes(self) -> dict[Any, tuple[int, int]]:
        return {image["id"]: (image["height"], image["width"]) for image in self._truth()["images"]}

    def _mask_overlap(
        self, item: Item, annotation: dict[str, Any], size: tuple[int, int]
    ) -> tuple[float, float, float]:
        """Intersection and union in pixels, and the IoU as pycocotools gives it."""
        truth = ground_truth_mask(annotation, *size, self.annotations)
        meant = masks.decode(truth) if truth else np.zeros(size, np.uint8)
        predicted = check_masks(item, *size) if item.get("masks") else []
        if not predicted:
            return 0.0, float(meant.sum()), 0.0
        drawn = masks.decode(predicted[0], where=f"prediction for image {item['image_id']}")
        inter, union = float((drawn & meant).sum()), float((drawn | meant).sum())
        if truth is None:
            return inter, union, 0.0
        return inter, union, _iou(predicted[0], truth, annotation)


def _best(item: Item) -> Item:
    """The item cut to its highest-scoring detection."""
    if len(item["scores"]) <= 1:
        return item
    best = int(np.argmax(item["scores"]))
    return {key: value[best : best + 1] if isinstance(value, list) else value for key, value in item.items()}


def _box_iou(item: Item, annotation: dict[str, Any]) -> float:
    if not item["boxes"]:
        return 0.0
    return _iou(item["boxes"][0], annotation["bbox"], annotation)


def _iou(found: Any, truth: Any, annotation: dict[str, Any]) -> float:
    """The overlap of two xywh boxes or of two RLE masks as pycocotools computes it, in float64."""
    return float(np.asarray(coco_mask.iou([found], [truth], [annotation["iscrowd"]]))[0, 0])
