"""COCO box and mask average precision through pycocotools, as detection papers report it.

Metrics are fractions in [0, 1], named `bbox/AP50` or `segm/APs`; one that is undefined because no object has that
size is left out. Papers print them times 100.
"""

import contextlib
import io
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.base.files import replace_text
from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.plain_values import area_of
from mmcore.data.records import Records
from mmcore.errors import DataError, ShapeError
from mmcore.evaluate.confusion import OVERLAP, SCORE, confusion
from mmcore.evaluate.ground_truth import (
    Item,
    as_coco,
    check_masks,
    ground_truth_mask,
    ground_truth_object,
    in_order,
    item_of,
    once_per_image,
    read_annotations,
)
from mmcore.geometry import masks

IouType = Literal["bbox", "segm"]

CURVES = "curves.json"
AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}


class CocoEvaluator(Evaluator):
    """AP and AR over the images that were taken in, by the protocol of the COCO detection challenge.

    Args:
        annotations: COCO JSON of the validation set, or its records where it is in another format.
        iou_types: "bbox", "segm" or both. "segm" ranks the same detections by the overlap of their masks.
        category_ids: dataset id of each contiguous label; by default the file's ids in ascending order. -1 is a label
            the file has no category for: its detections are nobody's and are left out.
        same_as: category id -> the id of the category that it is the same as, where a file has a class twice.
        max_detections: limits in the place of the protocol's own, `LIMITS`.
    """

    LIMITS: ClassVar[tuple[int, int, int]] = (1, 10, 100)
    """Three limits on detections an image, fewest first; AP uses the last."""
    _exhaustive = True
    """Whether every object of every class is annotated, so that a detection without one is a mistake."""

    def __init__(
        self,
        annotations: Path | Records,
        *,
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        category_ids: Sequence[int] | None = None,
        same_as: Mapping[int, int] | None = None,
        max_detections: tuple[int, int, int] | None = None,
    ) -> None:
        self._same_as = dict(same_as or {})
        self._records = annotations if isinstance(annotations, Records) else None
        self.annotations = Path(annotations.index.label if isinstance(annotations, Records) else annotations)
        self.iou_types = tuple(iou_types)
        self.max_detections = max_detections or self.LIMITS
        self.category_ap: dict[str, dict[str, float]] = {}
        """AP of each category by name, for each kind of overlap; filled by `summarise`."""
        self.curves: dict[str, Any] = {}
        """What `curves.json` holds: precision by recall, and which class was taken for which; filled by `summarise`."""
        self._category_ids = None if category_ids is None else [int(value) for value in category_ids]
        self._dataset: dict[str, Any] | None = None
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every figure of every kind of overlap; one that is undefined in the data is left out of the summary."""
        return tuple(f"{iou_type}/{name}" for iou_type in self.iou_types for name in self._names())

    def _names(self) -> tuple[str, ...]:
        sizes = list(AREAS)[1:]
        recalls = [f"AR@{limit}" for limit in self.max_detections]
        return ("AP", "AP50", "AP75", *(f"AP{size}" for size in sizes), *recalls, *(f"AR{size}" for size in sizes))

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch."""
        self._items += [item_of(prediction) for prediction in predictions]

    def state(self) -> list[Item]:
        """One JSON item per image taken in."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Detections in COCO's result format, with the data set's category ids and, which tools pass over, its names.

        Raises:
            DataError: an image that is not annotated.
            ShapeError: a label the data set does not have, or masks that do not fit.
        """
        sizes = self._sizes()
        ids, names = self.category_ids, self._names_of()
        found = []
        for item in once_per_image(items, sizes, self.annotations):
            found_masks = check_masks(item, *sizes[item["image_id"]]) if item.get("masks") is not None else None
            for i, (label, score) in enumerate(zip(item["labels"], item["scores"])):
                if not 0 <= label < len(ids):
                    raise ShapeError(f"label {label} of {len(ids)} categories", where=f"image {item['image_id']}")
                if ids[label] < 0:
                    continue
                one: dict[str, Any] = {"image_id": item["image_id"], "category_id": ids[label], "score": score}
                one["category_name"] = names[ids[label]]
                if item["boxes"]:
                    one["bbox"] = item["boxes"][i]
                if found_masks is not None:
                    one["segmentation"] = found_masks[i]
                found.append(one)
        return found

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every image among the items, each counted once.

        Raises:
            DataError: an image that is not annotated.
            ShapeError: predictions do not fit the data set, or have no masks where those are asked for.
        """
        detections = self.results(items)
        image_ids = in_order(item["image_id"] for item in items)
        metrics: dict[str, float] = {}
        for iou_type in self.iou_types:
            with quietly():
                evaluation = self._run(iou_type, detections, image_ids)
            self.category_ap[iou_type] = self._per_category(evaluation)
            self.curves[iou_type] = _precision_by_recall(evaluation)
            metrics |= {f"{iou_type}/{name}": value for name, value in self._metrics(evaluation).items()}
        self.curves["confusion"] = self._confusion(detections, image_ids)
        return metrics

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """Write `curves.json` beside the metrics, for pictures and for other tools."""
        del items
        replace_text(folder / CURVES, json.dumps(self.curves) + "\n")

    def _confusion(self, detections: Sequence[Mapping[str, Any]], image_ids: Sequence[Any]) -> dict[str, Any] | None:
        """Which class was taken for which; None where not every object of a class is annotated, or there is no box."""
        if not self._exhaustive or not all("bbox" in one for one in detections):
            return None
        ids = [id_ for id_ in self.category_ids if id_ >= 0]
        truth, found = _by_image(self._true_objects("bbox", set(image_ids))), _by_image(detections)
        counts = confusion(truth, found, image_ids, ids)
        return {"classes": [self._names_of()[id_] for id_ in ids], "counts": counts.tolist(), "score": SCORE,
                "overlap": OVERLAP}  # fmt: skip

    def _names_of(self) -> dict[int, str]:
        return {category["id"]: category["name"] for category in self._truth()["categories"]}

    @property
    def category_ids(self) -> list[int]:
        """Dataset id of each contiguous label."""
        if self._category_ids is None:
            self._category_ids = sorted(category["id"] for category in self._truth()["categories"])
        return self._category_ids

    def _truth(self) -> dict[str, Any]:
        if self._dataset is None:
            found = read_annotations(self.annotations) if self._records is None else as_coco(self._records)
            for annotation in found["annotations"] if self._same_as else ():
                annotation["category_id"] = self._same_as.get(annotation["category_id"], annotation["category_id"])
            self._dataset = found
        return self._dataset

    def _sizes(self) -> dict[Any, tuple[int, int]]:
        return {image["id"]: (image["height"], image["width"]) for image in self._truth()["images"]}

    def _run(self, iou_type: IouType, detections: list[dict[str, Any]], image_ids: list[Any]) -> COCOeval:
        # Images are numbered anew: NumPy, which sorts them in COCOeval, turns all into text where one is text.
        numbers = {id_: number for number, id_ in enumerate(image_ids, 1)}
        images = [image for image in self._truth()["images"] if image["id"] in numbers]

        def numbered(annotations: Sequence[Mapping[str, Any]]) -> COCO:
            return _indexed(
                {
                    "images": [{**image, "id": numbers[image["id"]]} for image in images],
                    "annotations": [{**one, "image_id": numbers[one["image_id"]]} for one in annotations],
                    "categories": self._truth()["categories"],
                }
            )

        truth = numbered(self._true_objects(iou_type, set(image_ids)))
        evaluation = self._evaluation(truth, numbered(_as_annotations(detections, iou_type)), iou_type)
        evaluation.params.imgIds = list(numbers.values())
        evaluation.params.catIds = list(dict.fromkeys(id_ for id_ in self.category_ids if id_ >= 0))
        evaluation.params.maxDets = list(self.max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def _evaluation(self, truth: COCO, results: COCO, iou_type: IouType) -> COCOeval:
        return COCOeval(truth, results, iou_type)

    def _true_objects(self, iou_type: str, image_ids: set[Any]) -> list[dict[str, Any]]:
        """The annotations of these images; for masks with their RLE, those without one left out."""
        sizes = self._sizes()
        objects = []
        for annotation in self._truth()["annotations"]:
            if annotation["image_id"] not in image_ids:
                continue
            # Numbered anew: to COCOeval a match with the object of id 0 is no match.
            one = ground_truth_object(annotation, self.annotations) | {"id": len(objects) + 1}
            unstated = area_of(annotation) is None
            if iou_type == "segm" or unstated:
                try:
                    rle = ground_truth_mask(annotation, *sizes[annotation["image_id"]], self.annotations)
                except DataError:
                    if iou_type == "segm":
                        raise
                    rle = None  # where boxes alone are judged, no mask can be wrong
                if rle is None and iou_type == "segm":
                    continue
                if rle is not None:
                    one |= {"segmentation": rle} | ({"area": float(masks.area(rle))} if unstated else {})
            objects.append(one)
        return objects

    def _metrics(self, evaluation: Any) -> dict[str, float]:
        # (thresholds, recalls, categories, areas, limits) and the same without recalls
        precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
        thresholds = evaluation.params.iouThrs
        values: dict[str, float | None] = {"AP": mean_defined(precision[..., 0, -1])}
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            values[name] = mean_defined(precision[np.isclose(thresholds, threshold)][..., 0, -1])
        for suffix, label in list(AREAS.items())[1:]:
            values[f"AP{suffix}"] = mean_defined(precision[..., evaluation.params.areaRngLbl.index(label), -1])
        for index, limit in enumerate(self.max_detections):
            values[f"AR@{limit}"] = mean_defined(recall[:, :, 0, index])
        for suffix, label in list(AREAS.items())[1:]:
            values[f"AR{suffix}"] = mean_defined(recall[:, :, evaluation.params.areaRngLbl.index(label), -1])
        return {name: value for name, value in values.items() if value is not None}

    def _per_category(self, evaluation: Any) -> dict[str, float]:
        names = self._names_of()
        precision = np.asarray(evaluation.eval["precision"])
        values = {names[id_]: mean_defined(precision[:, :, k, 0, -1]) for k, id_ in enumerate(evaluation.params.catIds)}
        return {name: value for name, value in values.items() if value is not None}


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """Without the tables and timings that pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _by_image(found: Sequence[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    result: dict[Any, list[Mapping[str, Any]]] = {}
    for one in found:
        result.setdefault(one["image_id"], []).append(one)
    return result


def _precision_by_recall(evaluation: Any) -> dict[str, Any]:
    """Precision at 101 recalls, the mean of the classes that have objects, at some overlaps and over all of them."""
    precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]  # (thresholds, recalls, classes)
    defined = precision[..., (precision > -1).all((0, 1))]
    if not defined.shape[-1]:
        return {}
    of_threshold = defined.mean(-1)
    chosen = {"0.5": 0.5, "0.75": 0.75, "0.9": 0.9}
    thresholds = evaluation.params.iouThrs
    curves = {name: of_threshold[np.isclose(thresholds, value)].mean(0) for name, value in chosen.items()}
    curves["0.5:0.95"] = of_threshold.mean(0)
    return {
        "recall": np.round(evaluation.params.recThrs, 4).tolist(),
        "precision": {name: np.round(values, 5).tolist() for name, values in curves.items()},
    }


def mean_defined(values: np.ndarray) -> float | None:
    """Mean over what is defined; pycocotools marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco: Any = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _as_annotations(detections: list[dict[str, Any]], iou_type: str) -> list[dict[str, Any]]:
    """Detections as the annotations pycocotools compares; their area, which decides small, medium or large, is that
    of the box for "bbox" and of the mask for "segm"."""

    def size_of(one: dict[str, Any]) -> float:
        return one["bbox"][2] * one["bbox"][3] if iou_type == "bbox" else float(masks.area(one["segmentation"]))

    key, word = ("bbox", "box") if iou_type == "bbox" else ("segmentation", "mask")
    if not all(key in one for one in detections):
        raise ShapeError(f"an object was predicted with no {word}", do=f"leave {iou_type!r} out of iou_types")
    return [{**one, "id": number, "iscrowd": 0, "area": size_of(one)} for number, one in enumerate(detections, start=1)]
