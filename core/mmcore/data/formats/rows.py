"""What the smaller object formats share: rows found in one scan, one record made of each, boxes kept inside images.

COCO files of gigabytes have a parser of their own; a folder of label files, or a file with a line an image, is listed
in memory once and its records are made from the list, in parallel like any other.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.images import MAX_PIXELS, read_facts
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, Object, Record, box_defect, short
from mmcore.errors import DataError

TOLERANCE_PX = 2.0
"""How far a box may reach outside its image; it is cut at the border. Farther makes the record unusable."""


class Scanned(NamedTuple):
    """What one scan finds."""

    rows: list[Any]
    """JSON values, in the order of the records."""
    categories: Sequence[str]
    """Names in the order of their numbers."""
    labels: Sequence[int] = ()
    """The file's own label of each category, where it has some."""


class RowParser(ABC):
    """A parser whose rows fit in memory; subclasses are frozen dataclasses of paths and options."""

    @abstractmethod
    def scan(self, report: Report) -> "Scanned":
        """Read the files once."""

    @abstractmethod
    def record(self, row: Any, number: int, scanned: "Scanned") -> Record:
        """The record of a row; of what was scanned, `rows` is empty."""

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """List the rows."""
        rows, categories, labels = self.scan(report)
        if not rows:
            raise DataError("there is nothing to read here", where=self._where(), do="check the path and the format")
        (folder / "rows.json").write_text(json.dumps([rows, list(categories), list(labels)]))
        return Prepared(
            len(rows), {"categories": list(categories), "category_ids": list(range(1, len(categories) + 1))}
        )

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The records of some rows."""
        rows, categories, labels = json.loads((folder / "rows.json").read_text())
        scanned = Scanned([], categories, labels)
        for number, row in enumerate(rows[start:stop], start):
            record = self.record(row, number, scanned)
            yield record.to_bytes(), record.facts()

    def _where(self) -> str:
        return str(getattr(self, "path", ""))


def make_object(
    number: int,
    box_xyxy: Sequence[float],
    category: int,
    size: tuple[int, int],
    *,
    where: str,
    field: str,
    segmentation: list[list[float]] | None = None,
    ignored: bool = False,
) -> Object | Defect:
    """An object with its box cut at the image's border, or why there is none.

    Args:
        number: its id within the file.
        box_xyxy: pixels.
        category: its number.
        size: height and width of the image, pixels.
        where: the part of the record, for messages.
        field: the field of the box, for messages.
        segmentation: its polygons.
        ignored: it is neither a training target nor a mistake when it is found.
    """
    try:
        left, top, right, bottom = (float(value) for value in box_xyxy)
    except (TypeError, ValueError, OverflowError):
        return Defect(where, field, f"box {short(box_xyxy)} is not four numbers", True)
    height, width = size
    problem = box_defect([left, top, right - left, bottom - top], height, width, TOLERANCE_PX)
    if problem:
        return Defect(where, field, problem, True)
    x0, y0, x1, y1 = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if x1 <= x0 or y1 <= y0:
        return Defect(where, field, f"box {[left, top, right, bottom]} has no area", False)
    return Object(number, (x0, y0, x1 - x0, y1 - y0), category, ignored, segmentation)


def make_record(
    image: str,
    id_: int | str,
    size: tuple[int, int],
    found: Sequence[Object | Defect],
    *,
    phrases: Sequence[str] = (),
) -> Record:
    """A record of what was found in an image."""
    objects = tuple(item for item in found if isinstance(item, Object))
    defects = tuple(item for item in found if isinstance(item, Defect))
    return Record(image, id_, size[0], size[1], objects, (), defects, tuple(phrases))


def size_of(path: Path) -> tuple[tuple[int, int], list[Defect]]:
    """Height and width of an image from its header, pixels, or what is wrong with it."""
    try:
        facts = read_facts(path, max_pixels=MAX_PIXELS)
    except DataError as error:
        return (0, 0), [Defect("image", "file", error.what, True)]
    return (facts.height, facts.width), []


def outline(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """The xyxy box around a polygon x0, y0, x1, y1, ..."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return x0, y0, x1, y1


def below(path: Path, folder: Path, where: Path) -> str:
    """The relative name of an image below the folder of its data set.

    Raises:
        DataError: it lies elsewhere.
    """
    if not path.is_relative_to(folder):
        raise DataError(
            f"{path} lies outside the data set", where=where, do=f"keep images below {folder}, which is the root of it"
        )
    return path.relative_to(folder).as_posix()


IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def images_in(folder: Path) -> list[Path]:
    """The images in a folder and those below it, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
