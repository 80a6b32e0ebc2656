"""What every conversion does: read a JSON file, take lists out of it, and put videos together."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.base import tamed
from mmcore.errors import DataError, MissingDataError
from mmcore.geometry import masks


def read(path: Path) -> Any:
    """A JSON file.

    Raises:
        MissingDataError: there is none.
        DataError: it is not JSON.
    """
    try:
        return tamed.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingDataError("there is no such file", where=path, do="check SOURCE") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read: {error}", where=path) from None


def listed(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a key.

    Raises:
        DataError: there is none.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"there is no list of objects {key!r}", where=path, do="see `mmcore data convert --help`")
    return found


def field(entry: Mapping[str, Any], key: str, where: object) -> Any:
    """A field that must be there.

    Raises:
        DataError: it is not.
    """
    if key not in entry:
        raise DataError(f"an entry has no {key!r}: {dict(entry)!s:.80}", where=where)
    return entry[key]


def add_seen(content: Mapping[str, list[Any]], entries: Iterable[dict[str, Any]], left_out: Counter[str]) -> None:
    """Add tracks to the annotations, numbered on; those that are seen in no frame are left out."""
    for entry in entries:
        if any(entry["bboxes"]):
            content["annotations"].append({**entry, "id": len(content["annotations"]) + 1})
        else:
            left_out["tracks that are seen in no frame"] += 1


def track(number: int, video_id: Any, category_id: Any, length: int, **more: Any) -> dict[str, Any]:
    """An annotation of YouTube-VIS's form that is seen nowhere yet."""
    empty = {name: [None] * length for name in ("segmentations", "bboxes", "areas")}
    return {"id": number, "video_id": video_id, "category_id": category_id, "iscrowd": 0, **empty, **more}


def put(entry: dict[str, Any], frame: int, bitmap: np.ndarray) -> None:
    """Give a track the mask, box and area of one frame; an empty mask is none."""
    if corners := masks.tight_box(bitmap):
        left, top, right, bottom = corners
        entry["segmentations"][frame], entry["areas"][frame] = masks.encode(bitmap), int(np.count_nonzero(bitmap))
        entry["bboxes"][frame] = [left, top, right - left, bottom - top]


def annotated_only(
    categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], left_out: Counter[str]
) -> list[Any]:
    """Id and name of the categories that any annotation is of."""
    used = {one["category_id"] for one in annotations}
    kept = [{"id": one["id"], "name": one["name"]} for one in categories if one.get("id") in used]
    left_out["categories without annotations"] += len(categories) - len(kept)
    return kept
