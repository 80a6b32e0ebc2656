"""How many objects are found whatever they are called: class-agnostic average recall, as open-world sets are judged.

All classes count as one, so an object that is found under another name is found. Recall is averaged over the overlaps
0.5 to 0.95 with at most 10, 100 and 1000 detections an image (Wang et al. 2021, UVO; Kim et al. 2022, OLN); pycocotools
computes it without categories. Precision is given too: it means something only where every object is annotated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.data.records import Records
from mmcore.evaluate.coco import CocoEvaluator, IouType

LIMITS = (10, 100, 1000)
"""Detections an image."""


class ClassAgnosticEvaluator(CocoEvaluator):
    """AR and AP over the images that were taken in, of objects without their classes.

    Args:
        annotations: COCO JSON of the validation set, or its records where it is in another format.
        iou_types: "bbox", "segm" or both.
        category_ids: dataset id of each contiguous label; what the file has no category for counts as well.
        same_as: category id -> the id of the category that it is the same as; taken, and of no effect here.
    """

    _exhaustive = False  # nothing is mistaken for something else where nothing is named

    def __init__(
        self,
        annotations: Path | Records,
        *,
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        category_ids: Sequence[int] | None = None,
        same_as: Mapping[int, int] | None = None,
    ) -> None:
        del same_as
        super().__init__(annotations, iou_types=iou_types, category_ids=category_ids, max_detections=LIMITS)

    @property
    def category_ids(self) -> list[int]:
        """Dataset id of each contiguous label; a label without one takes any."""
        ids = super().category_ids
        known = next((id_ for id_ in ids if id_ >= 0), -1)
        return [known if id_ < 0 else id_ for id_ in ids]

    def _evaluation(self, truth: COCO, results: COCO, iou_type: IouType) -> COCOeval:
        evaluation = super()._evaluation(truth, results, iou_type)
        evaluation.params.useCats = 0
        return evaluation

    def _per_category(self, evaluation: Any) -> dict[str, float]:
        del evaluation
        return {}
