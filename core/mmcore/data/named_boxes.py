"""What a record of any file says of boxes, in one form: a picture, and names with their boxes.

    detection            every class of the picture with its boxes, and classes that are not in it, with none
    an expression        one name with its boxes, or with none
    a description        one name, which is the answer, with the boxes it is about
    a visual prompt      classes with their boxes, of which one is shown

JSON Lines are read into it by `mmcore.data.formats.box_lines`; records of objects (COCO, RefCOCO, ODVG, Visual Genome,
...) become the same here, so a family poses its questions in one way whatever the file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

from mmcore.contract.values import Box, Id
from mmcore.data.index import Index
from mmcore.data.records import Record, Records
from mmcore.errors import DataError


class Scene(NamedTuple):
    """One usable record."""

    image: str
    """File name below the image folder."""
    id: Id
    """Of the picture, for evaluation."""
    size: tuple[int, int]
    """Height and width as the file says, pixels."""
    names: tuple[str, ...]
    boxes: tuple[tuple[Box, ...], ...]
    """Of each name: xyxy, pixels; whole numbers where the file has whole numbers."""
    where: str
    """File and record, for errors."""
    absent: tuple[str, ...] | None = None
    """Classes that surely are not in the picture, where not all others are; None is all others."""

    def rows(self) -> tuple[list[str], list[Box]]:
        """A name for every box, and the boxes, laid end to end."""
        pairs = [(name, box) for name, boxes in zip(self.names, self.boxes) for box in boxes]
        return [name for name, _ in pairs], [box for _, box in pairs]


class Scenes(Protocol):
    """Records by position."""

    @property
    def index(self) -> Index: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Scene:
        """Record `position`.

        Raises:
            DataError: it cannot be used; names file, record and field.
        """
        ...

    def unusable(self, position: int) -> bool:
        """Whether record `position` cannot be used."""
        ...

    def problems(self) -> Iterable[DataError]:
        """What is wrong with the file."""
        ...

    def left_out(self) -> Mapping[str, int]:
        """How much of the file cannot be used as it is, by what is wrong."""
        ...

    def num_boxes(self) -> Int[np.ndarray, " records"]:
        """Boxes of each record."""
        ...

    def categories(self) -> tuple[str, ...]:
        """Every class of the file; none where things are named in free words."""
        ...


class RecordScenes:
    """Records of objects (`mmcore.data.records`), grouped by what names them.

    Args:
        records: of the file.
        task: `detect`, `refer`, or one whose objects are named by phrases: `ground`, `region_caption`.
    """

    def __init__(self, records: Records, task: str) -> None:
        self.records, self.task = records, task
        self.index = records.index

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Content hash of the annotations and of which records are kept."""
        return self.records.fingerprint

    def unusable(self, position: int) -> bool:
        """Whether record `position` has a fatal defect."""
        return self.records.unusable(position)

    def problems(self) -> Iterator[DataError]:
        """Every defect of the file."""
        return self.records.problems()

    def left_out(self) -> dict[str, int]:
        """How many objects and records cannot be used as they are."""
        return self.records.left_out()

    def num_boxes(self) -> Int[np.ndarray, " records"]:
        """Objects of each record that are no crowds."""
        column = np.asarray(self.index.column("num_objects"))
        return column[[self.records.number(position) for position in range(len(self.records))]]

    def categories(self) -> tuple[str, ...]:
        """The file's classes."""
        return tuple(self.index.meta["categories"]) if self.task == "detect" else ()

    def __getitem__(self, position: int) -> Scene:
        """Record `position`.

        Raises:
            DataError: it has a fatal defect.
        """
        record = self.records[position]
        pairs = list(self._named(record))
        names = tuple(dict.fromkeys(name for name, _ in pairs))
        boxes = tuple(tuple(box for other, box in pairs if other == name) for name in names)
        where = f"{self.index.label}, image id {record.id}"
        size = (record.height, record.width)
        return Scene(record.image, record.id, size, names, boxes, where, self._absent(record))

    def _named(self, record: Record) -> Iterator[tuple[str, Box]]:
        for number, item in enumerate(record.objects):
            if item.crowd:
                continue
            # Floats: cutting whole numbers is a quirk of the published line files, not of these.
            x, y, width, height = (float(value) for value in item.box_xywh)
            box = (x, y, x + width, y + height)
            if self.task == "detect":
                yield self.index.meta["categories"][item.category], box
            elif self.task == "refer":
                yield from ((expression, box) for expression in record.expressions)
            else:
                yield record.phrases[number], box

    def _absent(self, record: Record) -> tuple[str, ...] | None:
        lists = record.category_lists or {}
        if self.task != "detect" or "neg_category_ids" not in lists:
            return None
        names = dict(zip(self.index.meta["category_ids"], self.index.meta["categories"], strict=True))
        return tuple(names[id_] for id_ in lists["neg_category_ids"])


def as_coco(scenes: Scenes) -> dict[str, Any]:
    """The records as the COCO data set that evaluators read; one that cannot be used is left out."""
    usable = [scenes[position] for position in range(len(scenes)) if not scenes.unusable(position)]
    ids = {name: number for number, name in enumerate(scenes.categories(), 1)}
    images: dict[Id, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for scene in usable:
        height, width = scene.size
        images[scene.id] = {"id": scene.id, "file_name": scene.image, "height": height, "width": width}
        for name, (x0, y0, x1, y1) in zip(*scene.rows(), strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            one = {"id": len(annotations) + 1, "image_id": scene.id, "category_id": ids[name], "iscrowd": 0}
            annotations.append({**one, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": id_, "name": name} for name, id_ in ids.items()]
    return {"images": list(images.values()), "annotations": annotations, "categories": categories}


def one_of(scene: Scene, name: str) -> Sequence[Box]:
    """The boxes of one name of a record."""
    return scene.boxes[scene.names.index(name)]
