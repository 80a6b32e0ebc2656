"""OmniLabel's protocol (Schulter et al., ICCV 2023): AP over categories and over descriptions, and their harmonic mean.

An image is asked about its own texts only, and a text that fits nothing in it punishes whatever is found for it. All
texts of a group count as one class: detections of all images and texts are ranked together. Groups are the categories,
the descriptions, those of them that fit something in their image, and those of up to 3, of 4 to 8 and of more words.
pycocotools computes it, each pair of image and text being an image of its own; at most 100 boxes a pair.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.omnilabel import is_description, read
from mmcore.errors import DataError
from mmcore.evaluate.coco import mean_defined, quietly
from mmcore.evaluate.ground_truth import Item, ground_truth_object, item_of, once_per_image

LIMIT = 100
"""Boxes that count for one text in one image."""

LENGTHS = {"s": (0, 3), "m": (4, 8), "l": (9, 100_000)}
"""Words of short, medium and long descriptions, both ends included."""

_EPSILON = 1e-5
"""In the divisor of the published harmonic mean."""


class Asked(NamedTuple):
    """One text that one image is asked about."""

    image_id: Any
    text_id: Any
    text: str
    free: bool
    """Whether it is a description and not a category."""
    fits: bool
    """Whether something in the image is meant by it."""

    def groups(self) -> tuple[str, ...]:
        """Every group that it counts in."""
        if not self.free:
            return ("categ",)
        words = len(self.text.split())
        length = next(name for name, (least, most) in LENGTHS.items() if least <= words <= most)
        return ("descr", *(("descr-pos",) if self.fits else ()), f"descr-{length}")


GROUPS = ("categ", "descr", "descr-pos", *(f"descr-{name}" for name in LENGTHS))


class OmniLabelEvaluator(Evaluator):
    """AP of boxes for texts over the images that were taken in.

    Args:
        annotations: the official file.
    """

    def __init__(self, annotations: Path) -> None:
        self.annotations = Path(annotations)
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The harmonic mean first; a figure of a group without objects is left out."""
        groups = tuple(f"{group}/AP" for group in GROUPS)
        return ("AP", *groups, *(f"{group}/{name}" for group in GROUPS[:2] for name in ("AP50", "AP75", "AR")))

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch; each is known by its text."""
        for prediction in predictions:
            self._items.append({**item_of(prediction), "texts": list(prediction.names or ())})

    def state(self) -> list[Item]:
        """One JSON item per image taken in."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Detections as the official toolkit reads them; texts that an image is not asked about are left out.

        Raises:
            DataError: an image that is not annotated.
        """
        by_text: dict[Any, dict[str, list[Any]]] = {}
        for one in self._asked:
            by_text.setdefault(one.image_id, {}).setdefault(one.text, []).append(one.text_id)
        known = {image["id"]: None for image in self._truth["images"]}
        found = []
        for item in once_per_image(items, known, self.annotations):
            texts = by_text.get(item["image_id"], {})
            for box, score, text in zip(item["boxes"], item["scores"], item["texts"], strict=True):
                ids = texts.get(text, [])
                one = {"image_id": item["image_id"], "bbox": box, "description_ids": ids, "scores": [score] * len(ids)}
                found += [one] if ids else []
        return found

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every image among the items, each counted once.

        Raises:
            DataError: an image that is not annotated, or a box of the file that is none.
        """
        results = self.results(items)
        taken = {item["image_id"] for item in items}
        asked = [one for one in self._asked if one.image_id in taken]
        with quietly():
            evaluation = self._run(asked, results)
            figures = {group: _figures(evaluation, asked, group) for group in GROUPS}
        metrics = {f"{group}/AP": found["AP"] for group, found in figures.items() if found}
        for group in GROUPS[:2]:
            metrics |= {f"{group}/{name}": value for name, value in figures[group].items()}
        if "categ/AP" in metrics and "descr/AP" in metrics:
            first, second = metrics["categ/AP"], metrics["descr/AP"]
            metrics = {"AP": 2 * first * second / (first + second + _EPSILON), **metrics}
        return metrics

    @cached_property
    def _truth(self) -> dict[str, Any]:
        return read(self.annotations)

    @cached_property
    def _asked(self) -> list[Asked]:
        """Every pair of image and text, by image in order of ids, then as the file lists the texts."""
        content = self._truth
        fits = {(one["image_id"], id_) for one in content["annotations"] for id_ in one["description_ids"]}
        found: dict[Any, list[Asked]] = {}
        for one in content["descriptions"]:
            for image_id in one["image_ids"]:
                pair = image_id, one["id"]
                found.setdefault(image_id, []).append(Asked(*pair, one["text"], is_description(one), pair in fits))
        known = [image["id"] for image in content["images"]]
        try:
            ordered = sorted(known)
        except TypeError:
            raise DataError("some image ids are numbers and some are text", where=self.annotations) from None
        return [one for image_id in ordered for one in found.get(image_id, ())]

    def _run(self, asked: Sequence[Asked], results: Sequence[Mapping[str, Any]]) -> COCOeval:
        """Every pair matched once; what belongs to a group is accumulated later."""
        numbers = {(one.image_id, one.text_id): number for number, one in enumerate(asked, 1)}

        def split(listed: Sequence[Mapping[str, Any]], *, scored: bool) -> COCO:
            rows = []
            for one in listed:
                scores = one["scores"] if scored else one["description_ids"]
                for id_, score in zip(one["description_ids"], scores, strict=True):
                    if (number := numbers.get((one["image_id"], id_))) is None:
                        continue
                    area = max(0.0, one["bbox"][2] * one["bbox"][3])  # as published, whatever the file says
                    row = {"id": len(rows) + 1, "image_id": number, "category_id": 1, "bbox": one["bbox"], "area": area}
                    rows.append(row | {"iscrowd": one.get("iscrowd", 0)} | ({"score": score} if scored else {}))
            return _indexed(rows, len(asked))

        annotations = [ground_truth_object(one, self.annotations) for one in self._truth["annotations"]]
        evaluation = COCOeval(split(annotations, scored=False), split(results, scored=True), "bbox")
        evaluation.params.imgIds = list(numbers.values())
        evaluation.params.maxDets = [LIMIT]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        return evaluation


def _figures(evaluation: Any, asked: Sequence[Asked], group: str) -> dict[str, float]:
    """AP, AP50, AP75 and AR of one group; empty where it has no objects."""
    chosen = [place for place, one in enumerate(asked) if group in one.groups()]
    if not chosen:
        return {}
    matched, ids = evaluation.evalImgs, evaluation.params.imgIds
    evaluation.evalImgs = [matched[place] for place in chosen]
    evaluation.params.imgIds = evaluation._paramsEval.imgIds = [ids[place] for place in chosen]
    try:
        evaluation.accumulate()
    finally:
        evaluation.evalImgs = matched
        evaluation.params.imgIds = evaluation._paramsEval.imgIds = ids
    precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
    thresholds = evaluation.params.iouThrs
    values = {"AP": mean_defined(precision), "AR": mean_defined(recall)}
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        values[name] = mean_defined(precision[np.isclose(thresholds, threshold)])
    return {name: value for name, value in values.items() if value is not None}


def _indexed(rows: list[dict[str, Any]], pairs: int) -> COCO:
    coco: Any = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, pairs + 1)],
        "annotations": rows,
        "categories": [{"id": 1, "name": "what is meant"}],
    }
    coco.createIndex()
    return coco
