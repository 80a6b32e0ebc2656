"""What a parser reads: one record per image or per referred object, still as the annotation file says it.

A record in the index is a short JSON list (`Record.to_json`), so that an index is plain text without code in it and
decodes at the speed of the C parser. Records carry what is wrong with them: a parser never stops a run over one bad
line, it notes the defect, and whoever asks for that record gets a `DataError` that names file, record and field.
"""

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.index import Index
from mmcore.data.select import Select
from mmcore.errors import DataError


class Object(NamedTuple):
    """One annotated object, coordinates in pixels of the image on disk."""

    id: int
    """Annotation id of the file."""
    box_xywh: tuple[float, float, float, float]
    category: int
    """Contiguous from 0, in the order of the category ids of the file."""
    crowd: bool
    """A region with many objects of this category; never a training target."""
    segmentation: list[list[float]] | dict[str, Any] | None
    """Polygons, compressed or uncompressed RLE, or None; see `mmcore.masks`."""


class Defect(NamedTuple):
    """Something in a record that makes it unusable, or that was left out of it."""

    where: str
    """The part of the record: "image", "annotation 17"."""
    field: str
    message: str
    fatal: bool
    """Whether the record cannot be used; otherwise the annotation was left out, as the published code does."""


class Record(NamedTuple):
    """One image with its annotations, or one referred object with its expressions."""

    image: str
    """File name below the image folder."""
    id: int | str
    height: int
    """Pixels, as the annotation file says."""
    width: int
    objects: tuple[Object, ...]
    expressions: tuple[str, ...] = ()
    """Referring expressions, each for the whole record."""
    defects: tuple[Defect, ...] = ()

    def to_json(self) -> list[Any]:
        """Nested lists without names, the form in the index."""
        return [*self[:4], [list(item) for item in self.objects], self.expressions, self.defects]

    @classmethod
    def from_json(cls, content: list[Any]) -> "Record":
        """The inverse of `to_json`."""
        image, id_, height, width, objects, expressions, defects = content
        return cls(
            image,
            id_,
            height,
            width,
            tuple([Object(number, tuple(box), *rest) for number, box, *rest in objects]),
            tuple(expressions),
            tuple([Defect(*defect) for defect in defects]),
        )

    def facts(self) -> dict[str, int]:
        """The columns of the index: what order and filters need to know about every record."""
        return {
            "width": self.width,
            "height": self.height,
            "num_objects": sum(not item.crowd for item in self.objects),
            "has_mask": any(item.segmentation for item in self.objects),
        }


class Records:
    """The records of an index that a split uses, by position; small, picklable, and opened when first read.

    Args:
        index: where the records are.
        keep_empty: also records without an object that is not a crowd; training leaves them out.
    """

    def __init__(self, index: Index, *, keep_empty: bool = False) -> None:
        self.index = index
        self._keep_empty = keep_empty
        self._select: Select | None = None

    def __len__(self) -> int:
        return len(self.index) if self._keep_empty else len(self._kept())

    def __getitem__(self, position: int) -> Record:
        """Record `position` of those kept.

        Raises:
            DataError: the record has a fatal defect; names file, record and field.
        """
        record = self.peek(position)
        for defect in record.defects:
            if defect.fatal:
                raise defect_error(record, defect, self.index.label)
        return record

    def peek(self, position: int) -> Record:
        """Record `position` with whatever is wrong with it."""
        return Record.from_json(self.index[self.number(position)])

    def __iter__(self) -> Iterator[Record]:
        return (self.peek(position) for position in range(len(self)))

    def number(self, position: int) -> int:
        """The number in the whole index of record `position`."""
        return position if self._keep_empty else self._kept()[position]

    @property
    def fingerprint(self) -> str:
        """Content hash of the annotations and of which records are kept."""
        return f"{self.index.fingerprint}{'+empty' if self._keep_empty else ''}"

    def aspect_groups(self) -> np.ndarray:
        """(records,) uint8: 1 where the image is wider than high, else 0."""
        landscape = self._column("width") > self._column("height")
        return landscape.astype(np.uint8)

    def total(self, column: str) -> int:
        """Sum of a column of the index over the records kept, such as `num_objects`."""
        return int(self._column(column).sum(dtype=np.int64))

    def _column(self, name: str) -> np.ndarray:
        column = self.index.column(name)
        return np.asarray(column) if self._keep_empty else column[np.asarray(self.index.column("num_objects")) > 0]

    def _kept(self) -> Select:
        if self._select is None:
            self._select = Select(_Positive(self.index))  # type: ignore[arg-type]
        return self._select

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_select": None}


class _Positive:
    """The column `num_objects > 0`, computed for the slice that is asked for."""

    def __init__(self, index: Index) -> None:
        self._column = index.column("num_objects")

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.asarray(self._column[part]) > 0


def defect_error(record: Record, defect: Defect, source: str) -> DataError:
    """The error that a defect amounts to."""
    return DataError(
        defect.message,
        where=f"{source}, image id {record.id} ({record.image}), {defect.where}, field {defect.field}",
        do="see `mmcore data check` for all of them; bad samples are skipped unless --set data.bad_samples=error",
    )


def box_defect(box: Any, height: int, width: int, tolerance_px: float) -> str | None:
    """What is wrong with a COCO box, or None.

    Args:
        box: should be [x, y, width, height], pixels.
        height: of the image, pixels.
        width: of the image, pixels.
        tolerance_px: how far the box may reach outside; rounding makes many files reach out by a pixel.
    """
    if not (isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(value) for value in box)):
        return f"box {_short(box)} is not four finite numbers [x, y, width, height]"
    x, y, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        return f"box {_short(box)} has a negative side"
    outside = max(-x, -y, x + box_width - width, y + box_height - height)
    if outside > tolerance_px:
        return f"box {_short(box)} lies {outside:g} pixels outside its {width}x{height} image"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:76] + " ..."


def file_name_defect(name: object) -> str | None:
    """What is wrong with an image's file name, or None; the same rule as `mmcore.data.images.safe_join`."""
    from mmcore.data.images import unsafe_reason

    if not isinstance(name, str | os.PathLike):
        return f"file name {_short(name)} is not text"
    reason = unsafe_reason(str(name))
    return f"path {str(name)!r} {reason}" if reason else None
