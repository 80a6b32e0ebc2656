"""What a parser reads: one record per image or per referred object, still as the annotation file says it.

A record in the index is a JSON text followed by its coordinates as float64 (`Record.to_bytes`): no code in it, and
numbers, of which an image has hundreds, need no parsing. Records carry what is wrong with them: a parser never stops
a run over one bad line, it notes the defect, and whoever asks for that record gets a `DataError` that names file,
record and field.
"""

import itertools
import json
import math
import os
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from mmcore.data import stray
from mmcore.data.index import Index
from mmcore.data.select import Select
from mmcore.errors import DataError, some

if TYPE_CHECKING:  # what it imports takes seconds and half a gigabyte in every process that helps with an index
    from mmcore.contract.protocols import DataSource

_LENGTH = struct.Struct("<I")


class Object(NamedTuple):
    """One annotated object, coordinates in pixels of the image on disk."""

    id: int
    """Annotation id of the file."""
    box_xywh: tuple[float, float, float, float]
    """Whole numbers where the file has whole numbers; the same holds for polygons."""
    category: int
    """Contiguous from 0, in the order of the category ids of the file."""
    crowd: bool
    """A region with many objects of this category; never a training target."""
    segmentation: list[list[float]] | dict[str, Any] | None
    """Polygons, compressed or uncompressed RLE, or None; see `mmcore.geometry.masks`."""
    area: float | None = None
    """As the file states it, pixels, which decides whether the object is judged as small, medium or large."""


class Defect(NamedTuple):
    """Something in a record that makes it unusable, or that was left out of it."""

    where: str
    """The part of the record: "image", "annotation 17"."""
    field: str
    message: str
    fatal: bool
    """Whether the record cannot be used; otherwise the annotation was left out, as the published code does."""

    @property
    def harmless(self) -> bool:
        """Whether nothing is lost by it: what the file says was read another way."""
        return not self.fatal and self.field in ("file_name", "size")


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
    """Referring expressions, each for the whole record; beside `phrases`, all that the image is asked about, whether
    something in it is meant or not."""
    defects: tuple[Defect, ...] = ()
    phrases: tuple[str, ...] = ()
    """One for each object, where objects are named in free words; else empty."""
    category_lists: dict[str, list[int]] | None = None
    """Category ids of the file that hold for the image as a whole, by field: LVIS's `neg_category_ids`."""

    def to_bytes(self) -> bytes:
        """The form in the index: length of the JSON text, JSON text, coordinates as little-endian float64."""
        numbers = array("d")
        boxes = [_put(numbers, item.box_xywh) for item in self.objects]
        shapes = [
            [_put(numbers, polygon) for polygon in item.segmentation]
            if isinstance(item.segmentation, list)
            else item.segmentation
            for item in self.objects
        ]
        crowds = [place for place, item in enumerate(self.objects) if item.crowd]
        ids, categories = [item.id for item in self.objects], [item.category for item in self.objects]
        areas = [item.area for item in self.objects]
        header = [*self[:4], ids, categories, crowds, boxes, shapes, areas, *self[5:]]
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        if sys.byteorder == "big":
            numbers.byteswap()
        return _LENGTH.pack(len(text)) + text + numbers.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Record":
        """The inverse of `to_bytes`."""
        end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
        header = json.loads(content[_LENGTH.size : end].decode("utf-8", "surrogatepass"))
        image, id_, height, width, ids, categories, crowds, boxes, shapes, areas, *more = header
        expressions, defects, phrases, lists = more
        numbers = iter(struct.unpack_from(f"<{(len(content) - end) // 8}d", content, end))
        placed = [tuple(_take(numbers, count)) for count in boxes]
        outlines = [[_take(numbers, count) for count in shape] if type(shape) is list else shape for shape in shapes]
        objects = tuple(
            [
                Object(number, box, category, place in crowds, outline, area)  # type: ignore[arg-type]
                for place, (number, box, category, outline, area) in enumerate(
                    zip(ids, placed, categories, outlines, areas)
                )
            ]
        )
        found = tuple([Defect(*item) for item in defects])
        return cls(image, id_, height, width, objects, tuple(expressions), found, tuple(phrases), lists)

    def facts(self) -> dict[str, int]:
        """The columns of the index: what order and filters need to know about every record.

        A record with a fatal defect counts as one object at least, so that it is drawn and the policy for bad samples
        is asked; without that it would count as an image without objects, and vanish.
        """
        found = sum(not item.crowd for item in self.objects)
        return {
            "width": self.width,
            "height": self.height,
            "num_objects": max(found, int(any(defect.fatal for defect in self.defects))),
            "has_mask": any(item.segmentation for item in self.objects),
            "num_defects": len(self.defects),
        }


def _put(numbers: "array[float]", values: Sequence[float]) -> int:
    """Append values; returns how many, negative when all are whole numbers in the file.

    The published transforms round coordinates that a file gives as integers, so they must stay integers.
    """
    numbers.extend(values)
    return len(values) if float in set(map(type, values)) else -len(values)


def _take(numbers: Iterator[float], count: int) -> list[float]:
    """The inverse of `_put`."""
    if count < 0:
        return list(map(int, itertools.islice(numbers, -count)))
    return list(itertools.islice(numbers, count))


class Records:
    """The records of an index that a split uses, by position; small, picklable, and opened when first read.

    Args:
        index: where the records are.
        keep_empty: also records without an object that is not a crowd; training leaves them out.
    """

    kind: Any = Record
    """What a record is; sources of other things than images with objects name theirs."""

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
                raise defect_error(record, defect, self.index.label_of(self.number(position)))
        return record

    def peek(self, position: int) -> Record:
        """Record `position` with whatever is wrong with it."""
        return self.kind.from_bytes(self.index[self.number(position)])

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

    def unusable(self, position: int) -> bool:
        """Whether record `position` has a fatal defect."""
        return any(defect.fatal for defect in self.peek(position).defects)

    def problems(self) -> Iterator[DataError]:
        """Every defect of the whole index, records that are not kept included, and annotations without an image."""
        for number, record in enumerate(self.whole()):
            for defect in (one for one in record.defects if not one.harmless):
                yield defect_error(record, defect, self.index.label_of(number))
        if not len(self) and len(self.index):
            yield DataError(
                nothing_to_learn(self), where=self.index.label, do="correct the annotations, or leave it out"
            )
        if orphans := self.index.meta.get("orphans", 0):
            yield DataError(
                f"{orphans} annotations belong to no image of the file",
                where=self.index.label,
                do="remove them, or add their images; they are left out until then",
            )

    def left_out(self) -> dict[str, int]:
        """How many objects and images cannot be used as they are, by the field that is wrong with them."""
        whole = self.whole()
        places = np.flatnonzero(np.asarray(self.index.column("num_defects"))).tolist()
        return counted_defects(defect for place in places for defect in whole.peek(place).defects)

    def whole(self) -> Self:
        """The same with every record of the index."""
        return type(self)(self.index, keep_empty=True)

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


TOLD = {
    "file_name": "of Label Studio's store, looked for below the folder of pictures",
    "size": "read from the picture",
    "box among polygons": "without a mask",
}
"""Field of a defect that leaves the record usable -> what was done about it."""


READ_ANYWAY = tuple(f"{field} {TOLD[field]}" for field in ("file_name", "size"))
"""What `left_out` calls the harmless ones."""


def told_read_anyway(source: "DataSource") -> str | None:
    """A line about what a source's file says in a way of its own, and how it was read; None where there is nothing."""
    records = source.annotations()
    found = records.left_out() if isinstance(records, Records) else {}
    return ", ".join(f"{found[what]} x {what}" for what in READ_ANYWAY if what in found) or None


def counted_defects(defects: Iterable[Defect]) -> dict[str, int]:
    """How many there are by the field that is wrong, most first."""
    found = Counter(
        f"{defect.field} {'unusable' if defect.fatal else TOLD.get(defect.field, 'left out or cut')}"
        for defect in defects
    )
    return dict(found.most_common())


def told_left_out(name: str, source: "DataSource") -> str | None:
    """A line about what of a source cannot be used as it is; None where everything can, or where nothing is known."""
    records = source.annotations()
    if records is None:
        return None
    found, meta = records.left_out(), records.index.meta
    lost = {what: count for what, count in found.items() if what not in READ_ANYWAY}
    told = [some([f"{count} x {what}" for what, count in found.items()])] if found else []
    if lost:
        told.append("`mmcore data check` lists them")
    if root := meta.get("root"):
        told.append(f"the category {root!r}, which an export put above all others and no object is of, is left out")
    if isinstance(records, Records) and (gone := meta.get("classes_left_out")):
        count = records.whole().total("num_left_out")
        told.append(f"{count:,} objects of {some(gone)} are left out, as `classes` says")
    return f"{name}: {'; '.join(told)}" if told else None


def nothing_to_learn(records: Records) -> str:
    """Why no record of an index can be trained on."""
    crowds = sum(item.crowd for record in records.whole() for item in record.objects)
    lost = ", ".join(f"{field} {count}" for field, count in records.left_out().items())
    reasons = [f"{crowds} crowds"] * bool(crowds) + [f"unusable: {lost}"] * bool(lost)
    return (
        f"none of {len(records.index)} images has an object to train on ({'; '.join(reasons) or 'none is annotated'})"
    )


def defect_error(record: Record, defect: Defect, source: str) -> DataError:
    """The error that a defect amounts to."""
    do = "correct the annotation file; `mmcore data check` lists everything that is wrong with it"
    if defect.field == "segmentation":
        do += '; for a data set of boxes alone choose format="COCO boxes" (of YOLO: "YOLO boxes")'
    return DataError(
        defect.message,
        where=f"{source}, image id {record.id} ({record.image}), {defect.where}, field {defect.field}",
        do=do,
    )


def box_defect(box: Any, height: int, width: int, tolerance_px: float) -> str | None:
    """What is wrong with a COCO box, or None.

    Args:
        box: should be [x, y, width, height], pixels.
        height: of the image, pixels.
        width: of the image, pixels.
        tolerance_px: how far the box may reach outside; rounding makes many files reach out by a pixel.
    """
    try:
        x, y, box_width, box_height = box
        if not math.isfinite(x + y + box_width + box_height):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        return f"box {short(box)} is not four finite numbers [x, y, width, height]"
    if box_width < 0 or box_height < 0:
        return f"box {short(box)} has a negative side"
    outside = max(-x, -y, x + box_width - width, y + box_height - height)
    if outside > tolerance_px:
        return f"box {short(box)} lies {outside:g} pixels outside its {width}x{height} image"
    return None


def short(value: object) -> str:
    """The beginning of a value, for messages."""
    try:
        text = repr(value)
    except RecursionError:
        return f"of type {type(value).__name__}, nested too deep"
    return text if len(text) < 80 else text[:76] + " ..."


def is_side(value: object) -> bool:
    """Whether something can be the height or width of an image in pixels."""
    return type(value) is int and 0 < value < 1 << 31


def file_name_defect(name: object) -> str | None:
    """What is wrong with an image's file name, or None; the same rule as `mmcore.data.images.safe_join`, which knows
    the folder and so whether an absolute name lies in it."""
    from mmcore.data.images import unsafe_reason

    if not isinstance(name, str | os.PathLike):
        return f"file name {short(name)} is not text"
    reason = None if stray.is_absolute(str(name)) and "\0" not in str(name) else unsafe_reason(str(name))
    return f"path {str(name)!r:.120} {reason}" if reason else None
