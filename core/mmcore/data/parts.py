"""Images with parts that are spoken of (`mmcore.data.grounded`), whichever format they come from.

records = open_parts(opened, "classes", max_pixels)
record = records[0]                            # its parts: a name, a box or the shapes of a mask
records.bitmaps(record, record.parts, size)    # (height, width) uint8 of each
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from mmcore.data.entry import Opened
from mmcore.data.formats.grand import GRAND_CAPTIONS, Grand, GrandOptions
from mmcore.data.formats.label_maps import KINDS, LabelMaps
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.grounded import Grounded, GroundedIndex, Part, Shape
from mmcore.data.images import MAX_PIXELS
from mmcore.data.records import Record, Records

Select = Literal["classes", "annotations", "expressions", "phrases"]
"""What of an image with objects is a part: every category, every annotation, every expression of the referred object,
or every object with its phrase."""


class PartRecords(Protocol):
    """Records by position; picklable."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Grounded: ...

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """(height, width) uint8 mask of each part."""
        ...

    def where(self, record: Grounded) -> str:
        """The file and the record, for errors."""
        ...


class Indexed(GroundedIndex):
    """Records of an index of `Grounded`."""

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """(height, width) uint8 mask of each part."""
        return [part.bitmap(size, self.where(record)) for part in parts]


class FromObjects:
    """Images with objects (`mmcore.data.records`), their objects as parts.

    Args:
        records: of the core's formats.
        parts: what of a record is spoken of.
    """

    def __init__(self, records: Records, parts: Callable[[Record], tuple[Part, ...]]) -> None:
        self.records, self._parts = records, parts

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Grounded:
        record = self.records[position]
        return Grounded(record.image, record.id, self._parts(record))

    @property
    def fingerprint(self) -> str:
        """Of the records."""
        return self.records.fingerprint

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """(height, width) uint8 mask of each part, 0 or 1: polygons of one object are one mask."""
        return [np.minimum(part.bitmap(size, self.where(record)), 1) for part in parts]

    def where(self, record: Grounded) -> str:
        """The file and the image."""
        return f"{self.records.index.label}, image id {record.id}"


class Classes:
    """A part for every category of an image, all its objects together; crowds and what has no mask are not asked."""

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = tuple(categories)

    def __call__(self, record: Record) -> tuple[Part, ...]:
        found: dict[int, list[tuple[Shape, ...]]] = {}
        for item in record.objects:
            if not item.crowd and item.segmentation:
                found.setdefault(item.category, []).append(_shapes(item.segmentation))
        return tuple(Part(self.categories[kind], None, tuple(found[kind]), None, kind) for kind in sorted(found))


class Annotations:
    """A part for every annotation, named by its category."""

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = tuple(categories)

    def __call__(self, record: Record) -> tuple[Part, ...]:
        return tuple(
            Part(self.categories[item.category], None, (_shapes(item.segmentation),), None, item.category)
            for item in record.objects
            if item.segmentation
        )


def expressions(record: Record) -> tuple[Part, ...]:
    """A part for every expression of a referred object."""
    objects = tuple(_shapes(item.segmentation) for item in record.objects if item.segmentation)
    return tuple(Part(text, None, objects) for text in record.expressions)


def phrases(record: Record) -> tuple[Part, ...]:
    """A part for every object with its phrase."""
    found = []
    for item, text in zip(record.objects, record.phrases, strict=True):
        x, y, w, h = item.box_xywh
        if not item.crowd and w >= 1 and h >= 1:
            found.append(Part(text.strip(), (x, y, x + w, y + h)))
    return tuple(found)


class Captions:
    """COCO captions as the core reads them (`mmcore.data.formats.captions`); the caption is the record's only part."""

    def __init__(self, records: LlavaIndex) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Grounded:
        record = self.records[position]
        return Grounded(str(record.image), record.id, (Part(record.turns()[-1].text),))

    @property
    def fingerprint(self) -> str:
        """Of the records."""
        return self.records.fingerprint

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """None: a caption is about the whole image."""
        del record, parts, size
        return []

    def where(self, record: Grounded) -> str:
        """The file and the image."""
        return f"{self.records.index.label}, image id {record.id}"


def _shapes(segmentation: Any) -> tuple[Shape, ...]:
    """Polygons or one RLE as shapes."""
    return tuple(segmentation) if isinstance(segmentation, list) else (segmentation,)


def open_parts(opened: Opened[Any], select: Select, max_pixels: int = MAX_PIXELS) -> PartRecords:
    """The records of an entry, whose format has objects, parts or captions of whole images.

    Args:
        opened: the entry.
        select: what of an image with objects is a part; without a meaning for other formats.
        max_pixels: larger label maps are refused before decoding.

    Raises:
        DataError: a file is not what the format says.
        MissingDataError: a folder is not there.
    """
    name, files = opened.format.name, opened.files
    if name in KINDS:
        return LabelMaps(files[0], KINDS[name], files[1] if len(files) > 1 else None, max_pixels)
    if isinstance(opened.format_options, GrandOptions):
        return Grand(files[0], "caption" if name == GRAND_CAPTIONS else "expression", opened.format_options.split)
    index = opened.index()
    if opened.format.content == "conversations":
        return Captions(LlavaIndex(index))
    if opened.format.content == "grounded":
        return Indexed(index)
    of_record: dict[Select, Callable[[], Callable[[Record], tuple[Part, ...]]]] = {
        "expressions": lambda: expressions,
        "phrases": lambda: phrases,
        "annotations": lambda: Annotations(index.meta["categories"]),
        "classes": lambda: Classes(index.meta["categories"]),
    }
    return FromObjects(Records(index), of_record[select]())
