"""Which class a detector takes for which: true objects against what was found where they are.

Boxes are paired by overlap whatever they are called, the largest overlap first, each once. A pair counts for its two
classes; a true object without a pair was missed, a detection without one found nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SCORE, OVERLAP = 0.3, 0.5
"""Detections from this score on count, as `mmcore predict` shows them; pairs overlap by this IoU at least."""


def confusion(
    truth: Mapping[Any, Sequence[Mapping[str, Any]]],
    detections: Mapping[Any, Sequence[Mapping[str, Any]]],
    image_ids: Sequence[Any],
    category_ids: Sequence[int],
) -> Int[np.ndarray, "classes_and_none classes_and_none"]:
    """Counts by true class (rows) and found class (columns); the last of each is none.

    Args:
        truth: annotations by image, each with `bbox` (xywh), `category_id` and `iscrowd`.
        detections: by image, each with `bbox`, `category_id` and `score`.
        image_ids: the images that were judged.
        category_ids: the classes, in the order of the counts.
    """
    places = {id_: number for number, id_ in enumerate(category_ids)}
    none = len(places)
    counts = np.zeros((none + 1, none + 1), np.int64)
    for image_id in image_ids:
        objects = [one for one in truth.get(image_id, ()) if one["category_id"] in places]
        true = [one for one in objects if not one.get("iscrowd")]
        found = [one for one in detections.get(image_id, ()) if one["score"] >= SCORE and one["category_id"] in places]
        rows, columns = _pairs(overlaps(_boxes(true), _boxes(found)))
        np.add.at(counts, (_places(true, places)[rows], _places(found, places)[columns]), 1)
        missed = np.setdiff1d(np.arange(len(true)), rows)
        np.add.at(counts[:, none], _places(true, places)[missed], 1)
        extra = np.setdiff1d(np.arange(len(found)), columns)
        crowds = _boxes([one for one in objects if one.get("iscrowd")])
        if len(crowds) and len(extra):  # what lies in a crowd may be one of it
            extra = extra[overlaps(crowds, _boxes(found)[extra], of_second=True).max(0) < OVERLAP]
        np.add.at(counts[none], _places(found, places)[extra], 1)
    return counts


def overlaps(
    first: Float[np.ndarray, "first 4"], second: Float[np.ndarray, "second 4"], *, of_second: bool = False
) -> Float[np.ndarray, "first second"]:
    """IoU of xywh boxes; with `of_second` the share of each second box that lies in the first."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = first[:, 2:].prod(-1)[:, None], second[:, 2:].prod(-1)[None]
    whole = areas[1] + np.zeros_like(shared) if of_second else areas[0] + areas[1] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _pairs(iou: Float[np.ndarray, "true found"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are paired, the largest overlap first."""
    order = np.argsort(-iou, axis=None, kind="stable")
    order = order[iou.ravel()[order] >= OVERLAP]
    rows, columns = np.unravel_index(order, iou.shape)
    taken: dict[int, int] = {}
    used: set[int] = set()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if row not in taken and column not in used:
            taken[row] = column
            used.add(column)
    return np.array(list(taken), np.int64), np.array(list(taken.values()), np.int64)


def _boxes(objects: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "objects 4"]:
    return np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)


def _places(objects: Sequence[Mapping[str, Any]], places: Mapping[int, int]) -> Int[np.ndarray, " objects"]:
    return np.array([places[one["category_id"]] for one in objects], np.int64)
