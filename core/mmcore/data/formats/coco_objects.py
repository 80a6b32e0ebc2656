"""One annotation of COCO's form as an object, or what is wrong with it: box, mask, category and flags.

Invalid polygons are dropped, and an annotation that had polygons but none valid is left out, as detectron2 reads it.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from mmcore.data.formats.plain_values import area_of, flag
from mmcore.data.formats.rows import outline
from mmcore.data.records import Defect, Object, box_defect
from mmcore.errors import DataError
from mmcore.geometry import masks


def to_object(
    annotation: dict[str, Any], height: int, width: int, numbers: dict[int, int], tolerance_px: float
) -> list[Object | Defect]:
    """The object of an annotation, or why there is none; both when it is there but cannot be used."""
    where = f"annotation {annotation['id']}"
    category = annotation.get("category_id")
    box = annotation.get("bbox")
    segmentation, problem = _segmentation(annotation.get("segmentation"), height, width)
    if problem:
        # The published code leaves such an annotation out and goes on.
        return [Defect(where, "segmentation", problem, segmentation is not None)]
    if "bbox" not in annotation and isinstance(segmentation, list):  # polygons alone say where the object is
        x0, y0, x1, y1 = outline([number for polygon in segmentation for number in polygon])
        box = [x0, y0, x1 - x0, y1 - y0]
    found = box_defect(box, height, width, tolerance_px)
    cut: list[Object | Defect] = []
    if found:
        inside = _cut(box, height, width)
        if inside is None:
            return [Defect(where, "bbox", found, True)]
        box = inside
        cut.append(Defect(where, "bbox", f"{found}; cut at the border", False))
    if not isinstance(category, int) or category not in numbers:
        known = ", ".join(itertools.chain(map(str, itertools.islice(numbers, 8)), ("...",) if len(numbers) > 8 else ()))
        return [Defect(where, "category_id", f"category {category!r} is not among the file's ({known})", True)]
    assert box is not None
    crowd = flag(annotation.get("iscrowd"))
    if crowd is None:
        return [Defect(where, "iscrowd", f"iscrowd {annotation['iscrowd']!r:.60} is neither 0 nor 1", True)]
    x, y, w, h = box
    return [Object(annotation["id"], (x, y, w, h), numbers[category], crowd, segmentation, area_of(annotation)), *cut]


def _cut(box: Any, height: int, width: int) -> list[float] | None:
    """The part of an xywh box inside its image, if that is most of it."""
    try:
        x, y, w, h = box
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        kept = max(right - left, 0) * max(bottom - top, 0)
        return [left, top, right - left, bottom - top] if kept > w * h / 2 > 0 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _numbers(polygons: Sequence[Sequence[Any]]) -> int:
    return sum(map(len, polygons))


def _segmentation(given: Any, height: int, width: int) -> tuple[Any, str | None]:
    """Valid polygons or compressed RLE, and what is wrong; wrong with something returned means it is unusable."""
    if not given:
        return None, None
    if isinstance(given, dict):
        try:
            rle = masks.compress(given)
            fits = rle["size"] == [height, width]
            return rle, None if fits else f"mask of size {rle['size']} in an image of size {[height, width]}"
        except DataError as error:
            return given, error.what
    if not isinstance(given, list) or not all(isinstance(polygon, list) for polygon in given):
        return given, "neither polygons nor RLE"
    valid = masks.valid_polygons(given)
    if not valid:
        box = " (four numbers are a box)" if _numbers(given) == 4 else ""
        return None, f"no polygon has three points{box}; the annotation was left out"
    try:
        finite = math.isfinite(sum(map(sum, valid)))
    except (TypeError, OverflowError):
        finite = False
    return valid, None if finite else "a polygon holds something that is not a finite number"
