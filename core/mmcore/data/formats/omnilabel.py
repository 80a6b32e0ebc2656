"""OmniLabel (Schulter et al., ICCV 2023): objects described in free words, and what each image is asked about.

    {"images":       [{"id": 1, "file_name": "coco/val2017/000000000139.jpg"}],
     "descriptions": [{"id": 7, "text": "the cup on the left", "image_ids": [1],
                       "anno_info": {"type": "object_description"}}],
     "annotations":  [{"id": 3, "image_id": 1, "bbox": [x, y, w, h], "description_ids": [7]}]}

`image_ids` of a description are the images that are asked about it, also those in which nothing fits: a negative one.
What has another type than `object_description` is the name of a category. The official file says no sizes of images, so
these are read from the pictures' headers when the index is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.base import tamed
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.plain_values import clean_annotation, clean_image, flag, whole
from mmcore.data.formats.rows import RowParser, Scanned, make_record
from mmcore.data.images import MAX_PIXELS, read_facts
from mmcore.data.index import Report
from mmcore.data.pictures import Pictures, picture_at
from mmcore.data.records import Defect, Object, Record, box_defect, file_name_defect, is_side
from mmcore.errors import DataError

NAME = "OmniLabel"
CATEGORIES = ("category", "description")
"""What an object of a record is found by."""


@dataclass(frozen=True)
class OmniLabel(RowParser):
    """Parser of one file; records are images in the order of the file, with an object for each pair of box and text.

    Attributes:
        path: the JSON file.
        images: that the file names; None where it says how large they are.
    """

    path: Path
    images: Pictures | None = None

    @property
    def format(self) -> str:
        return "omnilabel/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def scan(self, report: Report) -> Scanned:
        """Every image with its texts and boxes.

        Raises:
            DataError: the file is not in the format.
        """
        report(f"reading {self.path.name}", 0.0)
        content = read(self.path)
        asked: dict[Any, list[tuple[Any, str, int]]] = {}
        for one in content["descriptions"]:
            for image_id in one["image_ids"]:
                asked.setdefault(image_id, []).append((one["id"], one["text"], int(is_description(one))))
        boxes: dict[Any, list[Any]] = {}
        for one in content["annotations"]:
            boxes.setdefault(one["image_id"], []).append(
                [one.get("id"), one.get("bbox"), one["description_ids"], flag(one.get("iscrowd")) or False]
            )
        rows = [
            [image["id"], image["file_name"], image.get("height"), image.get("width"),
             asked.get(image["id"], []), boxes.get(image["id"], [])]
            for image in content["images"]
        ]  # fmt: skip
        return Scanned(rows, CATEGORIES)

    def record(self, row: Any, number: int, scanned: Scanned) -> Record:
        del number, scanned
        id_, name, height, width, asked, boxes = row
        problem = file_name_defect(name)
        if problem:
            return make_record(str(name), id_, (0, 0), [Defect("image", "file_name", problem, True)])
        size = (height, width) if is_side(height) and is_side(width) else self._size(name)
        texts = {text_id: (text, kind) for text_id, text, kind in asked}
        found: list[Object | Defect] = []
        phrases: list[str] = []
        for annotation_id, box, text_ids, crowd in boxes:
            where = f"annotation {annotation_id}"
            if wrong := box_defect(box, *size, tolerance_px=2.0):
                found.append(Defect(where, "bbox", wrong, True))
                continue
            if not text_ids:
                found.append(Defect(where, "description_ids", "no text means the object", False))
            for text_id in text_ids:
                if text_id not in texts:
                    told = f"description {text_id} is not one that the image is asked about"
                    found.append(Defect(where, "description_ids", told, True))
                    continue
                text, kind = texts[text_id]
                found.append(Object(len(phrases) + 1, tuple(box), kind, crowd, None))
                phrases.append(text)
        record = make_record(name, id_, size, found, phrases=phrases)
        return record._replace(expressions=tuple(dict.fromkeys(text for text, _ in texts.values())))

    def _size(self, name: str) -> tuple[int, int]:
        """Height and width of a picture, pixels.

        Raises:
            DataError: it is missing or damaged.
        """
        do = "fetch the pictures: the file does not say how large they are"
        if self.images is None:
            raise DataError("an image has no height and width", where=f"{self.path}, {name}", do=do)
        try:
            facts = read_facts(picture_at(self.images, name), max_pixels=MAX_PIXELS)
        except DataError as error:
            raise type(error)(error.what, where=f"{self.path}: {error.where}", known=error.known, do=do) from None
        return facts.height, facts.width


_FIELDS = {
    "images": ("id", "file_name"),
    "descriptions": ("id", "text", "image_ids"),
    "annotations": ("image_id", "description_ids"),
}
"""What the elements of each list must have."""


def read(path: Path) -> dict[str, Any]:
    """A file with the lists of its form, ids as whole numbers where they are that; parser and protocol read it alike.

    Raises:
        DataError: it is something else, or has no annotations, as the test split.
    """
    try:
        content = tamed.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"the annotation file cannot be read: {error}", where=path) from None
    for key in _FIELDS:
        listed = content.get(key) if isinstance(content, dict) else None
        if not isinstance(listed, list):
            raise DataError(
                f"the file has no list {key!r}",
                where=path,
                do="give a file of OmniLabel's validation split; its test split has no annotations",
            )
        content[key] = [_checked(one, key, f"{path}, element {place} of {key}") for place, one in enumerate(listed)]
    return content


def _checked(one: Any, key: str, where: str) -> dict[str, Any]:
    """An element of a list of the file, its ids as whole numbers where they are that."""
    if not isinstance(one, dict) or any(field not in one for field in _FIELDS[key]):
        raise DataError(f"it has no {' or no '.join(_FIELDS[key])}", where=where)
    if key == "descriptions" and not isinstance(one["text"], str):
        raise DataError(f"its text is {one['text']!r:.40}", where=where)
    cleaned = {"images": clean_image, "annotations": clean_annotation}.get(key, dict)(one)
    for field in ("image_ids", "description_ids"):
        if field in _FIELDS[key]:
            if not isinstance(one[field], list):
                raise DataError(f"its {field} are {one[field]!r:.40}, no list", where=where)
            cleaned[field] = [whole(id_) for id_ in one[field]]
    cleaned |= {field: whole(one[field]) for field in ("id", "image_id") if field in _FIELDS[key]}
    ids = [cleaned[field] for field in ("id", "image_id") if field in _FIELDS[key]]
    for id_ in (*ids, *cleaned.get("image_ids", ()), *cleaned.get("description_ids", ())):
        if not isinstance(id_, int | str) or isinstance(id_, bool):
            raise DataError(f"{id_!r:.40} is no id", where=where, do="ids are whole numbers or texts")
    return cleaned


def is_description(one: Mapping[str, Any]) -> bool:
    """Whether a text is a description in free words, and not the name of a category."""
    info = one.get("anno_info")
    return isinstance(info, Mapping) and info.get("type") == "object_description"


# ---- format ----


def _write(folder: Path) -> Written:
    """As the official file: no sizes, categories and descriptions, of each some that fit nothing."""
    miniature.write_pictures(folder / "images")
    ids = [scene.image_id for scene in miniature.scenes()]
    texts: dict[str, tuple[str, list[int]]] = dict.fromkeys(miniature.kinds(), ("object_category", ids))
    texts |= {"the one that is not there": ("object_description", ids[:2])}
    boxes = []
    for scene in miniature.scenes():
        for thing in miniature.objects(scene):
            said = f"the {thing.colour} {thing.kind}"
            texts.setdefault(said, ("object_description", []))
            if scene.image_id not in texts[said][1]:
                texts[said][1].append(scene.image_id)
            boxes.append((thing, scene.image_id, [thing.kind, said]))
    numbers = {text: number for number, text in enumerate(texts, 1)}
    content = {
        "info": {"name": "OmniLabel", "version": "0.1.3", "url": "https://www.omnilabel.org"},
        "images": [{"id": s.image_id, "file_name": miniature.file_name(s)} for s in miniature.scenes()],
        "descriptions": [
            {"id": numbers[text], "text": text, "image_ids": images, "anno_info": {"type": kind}}
            for text, (kind, images) in texts.items()
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "bbox": thing.box_xywh,
                "area": thing.area,
                "iscrowd": 0,
                "description_ids": [numbers[text] for text in said],
            }
            for number, (thing, image_id, said) in enumerate(boxes, 1)
        ],
    }
    miniature.write_json(folder / "omnilabel.json", content)
    return Written("omnilabel.json", "images")


FORMATS = (
    Format(
        name=NAME,
        short=("omnilabel",),
        title="JSON with descriptions in free words, the images asked about each, and boxes that they fit",
        content="objects",
        tasks=("ground",),
        parser=lambda files, options: OmniLabel(files[0]),
        sized_by_pictures=True,
        evaluator="omnilabel",
        metric="AP",
        sniff=lambda glimpse: {"images", "descriptions"} <= glimpse.parts.keys(),
        sample=_write,
    ),
)
