"""How many objects are found whatever they are called: class-agnostic average recall, as open-world sets are judged.

All classes count as one, so an object that is found under another name is found. Recall is averaged over the overlaps
0.5 to 0.95 with at most 10, 100 and 1000 detections an image (Wang et al. 2021, UVO; Kim et al. 2022, OLN); pycocotools
computes it without categories. Precision is given too: it means something only where every object is annotated.
"""

from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.evaluate.coco import CocoEvaluator, IouType


class ClassAgnosticEvaluator(CocoEvaluator):
    """AR and AP over the images that were taken in, of objects without their classes; see `CocoEvaluator`.

    What is found under a label that the file has no category for counts as well.
    """

    LIMITS = (10, 100, 1000)
    _exhaustive = False  # nothing is mistaken for something else where nothing is named

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
