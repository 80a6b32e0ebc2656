"""Records of images with something said about parts of them: a caption with phrases, expressions, described boxes.

One `Grounded` is an image with its parts; a part has a text and a box, or masks, or both, and where the text is a
piece of the record's caption, its span. It lies in the index as one JSON text. As with objects (`mmcore.data.records`),
a record carries what is wrong with it, and whoever asks for it gets a `DataError` with file, record and field.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.index import Index
from mmcore.data.records import Defect, counted_defects, defect_error
from mmcore.errors import DataError
from mmcore.geometry import masks

Shape = list[float] | dict[str, Any]
"""A polygon, or an RLE."""


class Part(NamedTuple):
    """A part of an image and what it is called."""

    text: str
    box_xyxy: tuple[float, float, float, float] | None = None
    """Pixels of the image on disk."""
    objects: tuple[tuple[Shape, ...], ...] = ()
    """The things that are meant, each with the shapes that its mask is made of."""
    span: tuple[int, int] | None = None
    """First character in the caption, and one past the last."""
    kind: int = 0
    """Number of a category, where parts of one category belong together."""

    def bitmap(self, size: tuple[int, int], where: str) -> np.ndarray:
        """(height, width) uint8: its mask, over 1 where shapes of one thing overlap, as published code sums them.

        Args:
            size: height and width of the image, pixels.
            where: for errors.

        Raises:
            DataError: a shape is malformed or of another size.
        """
        whole = np.zeros(size, np.uint8)
        for shapes in self.objects:
            whole |= _summed(shapes, size, where)
        return whole


def _summed(shapes: Sequence[Shape], size: tuple[int, int], where: str) -> np.ndarray:
    summed = np.zeros(size, np.uint8)
    for shape in shapes:
        summed += masks.to_bitmap(shape if isinstance(shape, dict) else [shape], *size, where=where)
    return summed


class Grounded(NamedTuple):
    """One image with what is said about it."""

    image: str
    """File name below the image folder."""
    id: int | str
    parts: tuple[Part, ...]
    caption: str = ""
    defects: tuple[Defect, ...] = ()

    def to_bytes(self) -> bytes:
        """The form in the index."""
        return json.dumps(self, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def from_bytes(cls, content: bytes) -> "Grounded":
        """The inverse of `to_bytes`."""
        image, id_, parts, caption, defects = json.loads(content.decode("utf-8", "surrogatepass"))
        return cls(image, id_, tuple(map(_part, parts)), caption, tuple(Defect(*one) for one in defects))

    def facts(self) -> dict[str, int]:
        """The columns of the index; a record that cannot be used counts as one part, so that it is drawn and told."""
        bad = any(defect.fatal for defect in self.defects)
        return {"parts": max(len(self.parts), int(bad)), "bad": int(bad), "num_defects": len(self.defects)}


COLUMNS: Mapping[str, Any] = {"parts": np.int32, "bad": np.uint8, "num_defects": np.int32}
"""What a parser of such records names as its `columns`."""


def _part(value: Any) -> Part:
    text, box, objects, span, kind = value
    return Part(
        text,
        tuple(box) if box else None,
        tuple(tuple(shapes) for shapes in objects),
        tuple(span) if span else None,
        kind,
    )


class GroundedIndex:
    """The records of an index that have a part, by position; small and picklable."""

    def __init__(self, index: Index, *, first: int | None = None) -> None:
        """
        Args:
            index: of records made with `Grounded.to_bytes`.
            first: no more than so many of them.
        """
        self.index = index
        self._kept = np.flatnonzero(np.asarray(index.column("parts"))).astype(np.int64)[:first]

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, position: int) -> Grounded:
        """Record `position`.

        Raises:
            DataError: it cannot be used; names file, record and field.
        """
        record = Grounded.from_bytes(self.index[int(self._kept[position])])
        for defect in record.defects:
            if defect.fatal:
                raise self._error(record, defect)
        return record

    @property
    def fingerprint(self) -> str:
        """Content hash of the annotations and of which records are kept."""
        return f"{self.index.fingerprint}+{len(self)}"

    def where(self, record: Grounded) -> str:
        """The file and the record, for errors."""
        return f"{self.index.label}, image id {record.id} ({record.image})"

    def unusable(self, position: int) -> bool:
        """Whether record `position` cannot be used."""
        return bool(self.index.column("bad")[self._kept[position]])

    def problems(self) -> Iterator[DataError]:
        """Everything that is wrong with the records."""
        for record in self._flawed():
            for defect in record.defects:
                yield self._error(record, defect)
        if not len(self) and len(self.index):
            yield DataError(f"none of {len(self.index)} records has anything to learn", where=self.index.label)

    def left_out(self) -> dict[str, int]:
        """How many records and parts cannot be used as they are, by the field that is wrong with them."""
        return counted_defects(defect for record in self._flawed() for defect in record.defects)

    def _flawed(self) -> Iterator[Grounded]:
        numbers = np.flatnonzero(np.asarray(self.index.column("num_defects"))).tolist()
        return (Grounded.from_bytes(self.index[number]) for number in numbers)

    def _error(self, record: Grounded, defect: Defect) -> DataError:
        return defect_error(record, defect, self.index.label)  # type: ignore[arg-type]


def span_fault(caption: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """Why spans cannot be marked in a caption: one lies outside of it, is empty, or overlaps another; None for fine."""
    last: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if not 0 <= start < end <= len(caption):
            return f"the span [{start}, {end}) lies outside the caption of {len(caption)} characters"
        if last is not None and start < last[1]:
            return f"the phrases {caption[slice(*last)]!r} and {caption[start:end]!r} overlap at character {start}"
        last = (start, end)
    return None
