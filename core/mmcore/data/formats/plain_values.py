"""Numbers and flags as tools write them into COCO files: `"7"`, `7.0` and 7 are one id, `"0"`, null and 0 one flag.

Used wherever such a file is read, by the parser and by the evaluators, so that both see the same values. What is not
clearly a whole number or a flag is left as it is, for whoever needs it to refuse.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmcore.base import tamed

FLAGS: Mapping[Any, bool] = {
    **{None: False, 0: False, 1: True, "": False, "0": False, "1": True, "0.0": False, "1.0": True},
    **{"false": False, "true": True, "False": False, "True": True, "no": False, "yes": True},
}


def whole(value: Any) -> Any:
    """The whole number that a value is, however it is written; anything else as it is.

    >>> whole("12"), whole(3.0), whole(2.5), whole("a7"), whole(True)
    (12, 3, 2.5, 'a7', True)
    """
    if type(value) is float and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-").removesuffix(".0")
        if digits.isascii() and digits.isdigit() and len(digits) < 20:
            return int(text.removesuffix(".0"))
    return value


def flag(value: Any) -> bool | None:
    """What a flag says; None where it says neither yes nor no.

    >>> flag("0"), flag(None), flag(1.0), flag("perhaps")
    (False, False, True, None)
    """
    return FLAGS.get(value) if isinstance(value, str | int | float | None) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that a float can hold."""
    return type(value) in (int, float) and abs(value) < 1e300 and not math.isnan(value)


def area_of(annotation: Mapping[str, Any]) -> float | None:
    """The area that an annotation states, pixels; None where it states none. COCO sorts objects by size with it."""
    area = whole(annotation.get("area"))
    return area if is_number(area) and area >= 0 else None


def clean_image(image: Any) -> Any:
    """An image entry with whole id and sides, and a file name with forward slashes."""
    if not isinstance(image, dict):
        return image
    cleaned = {**image, **{key: whole(image[key]) for key in ("id", "height", "width") if key in image}}
    name = image.get("file_name")
    return {**cleaned, "file_name": name.replace("\\", "/")} if isinstance(name, str) else cleaned


def clean_annotation(annotation: Any) -> Any:
    """An annotation with whole ids, a flag of 0 or 1, whole run lengths, and points of polygons laid end to end."""
    if not isinstance(annotation, dict):
        return annotation
    keys = ("id", "image_id", "category_id")
    cleaned = {**annotation, **{key: whole(annotation[key]) for key in keys if key in annotation}}
    crowd = flag(annotation.get("iscrowd"))
    if crowd is not None:
        cleaned["iscrowd"] = int(crowd)
    if annotation.get("segmentation"):
        cleaned["segmentation"] = clean_segmentation(annotation["segmentation"])
    return cleaned


def clean_segmentation(given: Any) -> Any:
    """Run lengths and sizes as whole numbers; polygons of [x, y] points as x, y, x, y, ...

    A polygon alone, one within further brackets and points of {"x": ..., "y": ...} are read as what they mean; so
    are an RLE alone in a list, all of it as text, and run lengths and sizes in text.

    >>> clean_segmentation([1, 1, 6, 1, 6, 6]), clean_segmentation([[[1, 1, 6, 1, 6, 6]]])
    ([[1, 1, 6, 1, 6, 6]], [[1, 1, 6, 1, 6, 6]])
    >>> clean_segmentation({"size": "[2, 3]", "counts": "1, 4, 1"})
    {'size': [2, 3], 'counts': [1, 4, 1]}
    """
    if isinstance(given, str):
        given = _from_text(given)
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict) and "counts" in given[0]:
        given = given[0]
    if isinstance(given, dict):
        return {**given, **{key: _runs(given[key]) for key in ("size", "counts") if key in given}}
    if not isinstance(given, list):
        return given
    if len(given) >= 6 and all(type(number) in (int, float) for number in given):
        return [given]
    polygons = list(_polygons(given, depth=4))
    return polygons if all(isinstance(polygon, list) for polygon in polygons) else given


_LISTED = re.compile(r"\s*[\[(]?\s*(\d+(?:\.0*)?(?:(?:\s*,\s*|\s+)\d+(?:\.0*)?)+),?\s*[\])]?\s*")
"""Numbers with blanks or commas between them, which compressed run lengths never have."""
_BYTES = re.compile(r"""b'([^']*)'|b"([^"]*)\"""")


def _runs(given: Any) -> Any:
    """Run lengths or a size as a list of whole numbers, or as the compressed text that they are.

    Compressed text that went through Python's `str` of bytes, `b'...'`, has its backslashes doubled.
    """
    if isinstance(given, list):
        return [whole(one) for one in given] if any(type(one) is not int for one in given) else given
    if not isinstance(given, str):
        return given
    if listed := _LISTED.fullmatch(given):
        return [whole(one.removesuffix(".")) for one in re.split(r"[\s,]+", listed[1])]
    if quoted := _BYTES.fullmatch(given.strip()):
        return (quoted[1] or quoted[2] or "").replace("\\\\", "\\")
    return given


def _from_text(given: str) -> Any:
    """What a segmentation means that is JSON or a Python literal in text; the text where it is neither."""
    for text in (given, given.replace("'", '"')):
        try:
            found = tamed.loads(text)
        except ValueError:
            continue
        return found if isinstance(found, list | dict) else given
    return given


def _polygons(given: list[Any], depth: int) -> Iterator[Any]:
    """The polygons in a list of polygons, each laid end to end; what is none is left as it is."""
    points = [[point["x"], point["y"]] if _is_named(point) else point for point in given]
    if len(points) >= 3 and all(map(_is_point, points)):
        yield [number for point in points for number in point]
        return
    for part in given:
        if depth and isinstance(part, list) and part and any(isinstance(inner, list | dict) for inner in part):
            yield from _polygons(part, depth - 1)
        else:
            yield part


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"x", "y"}


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)


def clean_category(category: Any) -> Any:
    """A category with a whole id."""
    return {**category, "id": whole(category["id"])} if isinstance(category, dict) and "id" in category else category
