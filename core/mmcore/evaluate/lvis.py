"""LVIS average precision (Gupta et al. 2019): a large vocabulary of which every image was searched for a part only.

An image says which categories it has and which it surely has not; detections of any other category are left out. Of
categories that are not annotated exhaustively, detections without a partner count neither for nor against. At most 300
detections of an image count, over all categories. Beside COCO's metrics there are those of rare, common and frequent
categories (`APr`, `APc`, `APf`), as the data set groups them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.errors import DataError
from mmcore.evaluate.coco import CocoEvaluator, IouType, mean_defined
from mmcore.evaluate.ground_truth import Item

FREQUENCIES = ("r", "c", "f")
UNREPORTED = ("AR@1", "AR@10")
"""COCO's figures that LVIS does not know."""


class LvisEvaluator(CocoEvaluator):
    """AP and AR over the images that were taken in, by the protocol of LVIS v1; see `CocoEvaluator`."""

    LIMITS = (1, 10, 300)
    _exhaustive = False

    def _names(self) -> tuple[str, ...]:
        limited = (name for name in super()._names() if name not in UNREPORTED)
        return (*limited, *(f"AP{group}" for group in FREQUENCIES))

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """The best detections of each image in COCO's result format; see `CocoEvaluator.results`."""
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for one in super().results(items):
            by_image.setdefault(one["image_id"], []).append(one)
        return [one for found in by_image.values() for one in sorted(found, key=_best_first)[: self.LIMITS[-1]]]

    def _run(self, iou_type: IouType, detections: list[dict[str, Any]], image_ids: list[Any]) -> COCOeval:
        searched = self._searched()
        known = [one for one in detections if one["category_id"] in searched[one["image_id"]]]
        return super()._run(iou_type, known, image_ids)

    def _evaluation(self, truth: COCO, results: COCO, iou_type: IouType) -> COCOeval:
        incomplete = {
            (image["id"], category)
            for image in truth.dataset["images"]
            for category in self._listed(dict(image), "not_exhaustive_category_ids")
        }
        return _Federated(truth, results, iou_type, incomplete)

    def _searched(self) -> dict[Any, set[int]]:
        """Image id -> the categories it was searched for: those it has and those it surely has not."""
        images = self._truth()["images"]
        searched = {image["id"]: set(self._listed(image, "neg_category_ids")) for image in images}
        for annotation in self._truth()["annotations"]:
            searched.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
        return searched

    def _listed(self, image: Mapping[str, Any], field: str) -> list[int]:
        if not isinstance(image.get(field), list):
            raise DataError(
                f"an image has no {field}",
                where=f"{self.annotations}, image id {image['id']}",
                do='this is no LVIS v1 file; COCO files have the format "COCO instances"',
            )
        return image[field]

    def _metrics(self, evaluation: Any) -> dict[str, float]:
        metrics = super()._metrics(evaluation)
        limited = {name: value for name, value in metrics.items() if name not in UNREPORTED}
        precision = np.asarray(evaluation.eval["precision"])
        groups = {category["id"]: category.get("frequency") for category in self._truth()["categories"]}
        of_category = np.array([groups[id_] for id_ in evaluation.params.catIds], dtype=object)
        for group in FREQUENCIES:
            value = mean_defined(precision[:, :, of_category == group, 0, -1])
            if value is not None:
                limited[f"AP{group}"] = value
        return limited


def _best_first(detection: dict[str, Any]) -> float:
    return -detection["score"]


class _Federated(COCOeval):
    """COCO's matching, with unmatched detections of incomplete categories ignored."""

    def __init__(self, truth: COCO, results: COCO, iou_type: IouType, incomplete: set[tuple[Any, int]]) -> None:
        super().__init__(truth, results, iou_type)
        self._incomplete = incomplete

    def evaluateImg(self, imgId: Any, catId: int, aRng: Any, maxDet: int) -> Any:  # noqa: N802, N803 - theirs
        """The matches of one category in one image."""
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if found is not None and (imgId, catId) in self._incomplete:
            found["dtIgnore"] = np.logical_or(found["dtIgnore"], found["dtMatches"] == 0)
        return found
