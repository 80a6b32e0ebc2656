"""The truth files of grounded captions and of region captions, read whole: what is asked, and what answers are compared
with (`mmcore.evaluate.grounded_captions`, `mmcore.evaluate.captions`).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.contract.values import Id
from mmcore.data.formats.format import Format
from mmcore.data.images import unsafe_reason
from mmcore.data.pictures import Pictures, is_there
from mmcore.errors import DataError, MissingDataError

ENDINGS = (".jpg", ".jpeg", ".png")


class Asked(NamedTuple):
    """One question of an evaluation."""

    id: Id
    image: str
    box_xyxy: tuple[float, float, float, float] | None
    answers: tuple[str, ...]


def gcg_questions(captions: Path, images: Pictures) -> tuple[Asked, ...]:
    """The pictures of a split of GranD-f's evaluation, with their captions.

    Raises:
        DataError: the file is not in the format.
        MissingDataError: a picture is not there.
    """
    content = read_json(captions)
    said: dict[Id, list[str]] = {}
    for one in listed(content, "annotations", captions):
        said.setdefault(one["image_id"], []).append(str(one["caption"]))
    asked = []
    for one in listed(content, "images", captions):
        name = next((f"{one['id']}{end}" for end in ENDINGS if is_there(images, f"{one['id']}{end}")), None)
        if name is None:
            raise MissingDataError(f"there is no picture {one['id']}", where=str(images), known=ENDINGS)
        asked.append(Asked(one["id"], name, None, tuple(said.get(one["id"], ()))))
    return tuple(asked)


def region_questions(path: Path) -> tuple[Asked, ...]:
    """The boxes of a region caption file: the annotation under each image's own id.

    Raises:
        DataError: the file is not in the format.
    """
    content = read_json(path)
    by_id = {one["id"]: one for one in listed(content, "annotations", path)}
    said: dict[Id, list[str]] = {}
    for one in by_id.values():
        said.setdefault(one["image_id"], []).append(str(one.get("caption", "")))
    asked = []
    for image in listed(content, "images", path):
        annotation = by_id.get(image["id"])
        if annotation is None or unsafe_reason(str(image.get("file_name"))):
            problem = "no annotation of this id" if annotation is None else "no usable file name"
            raise DataError(f"image {image['id']} has {problem}", where=path)
        x, y, w, h = annotation["bbox"]
        asked.append(Asked(image["id"], image["file_name"], (x, y, x + w, y + h), tuple(said[image["id"]])))
    return tuple(asked)


def read_json(path: Path) -> Any:
    """A JSON file that is read whole.

    Raises:
        MissingDataError: it is not there.
        DataError: it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingDataError("the file is missing", where=path, do="check the data root") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def listed(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """A list of a COCO file, each of whose elements says which picture it is about.

    Raises:
        DataError: it is not there, empty, or an element lacks its id.
    """
    found = content.get(key) if isinstance(content, dict) else None
    wanted = ("id",) if key == "images" else ("image_id",)
    if not isinstance(found, list) or not found:
        raise DataError(f"the file has no list of {key}", where=path)
    if not all(isinstance(one, dict) and all(name in one for name in wanted) for one in found):
        raise DataError(f"an element of {key} has no {', '.join(wanted)}", where=path)
    return found


# ---- formats ----

GCG_TRUTH, REGION_TRUTH = "GCG evaluation", "region caption evaluation"
FORMATS = (
    Format(
        name=GCG_TRUTH,
        title="GranD-f's evaluation: captions and masks of the pictures of one split",
        content="questions",
        tasks=("ask",),
        files=("captions", "masks"),
    ),
    Format(
        name=REGION_TRUTH,
        title="region captions to compare with: COCO's form, an annotation with box and caption under each image's id",
        content="questions",
        tasks=("ask",),
    ),
)
