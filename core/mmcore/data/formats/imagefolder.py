"""Image folders with a `metadata.jsonl` beside the images, as the Hugging Face datasets library reads them.

    metadata.jsonl   {"file_name": "0001.png", "text": "a golden retriever"}
                     {"file_name": "0002.png", "objects": {"bbox": [[302, 109, 73, 52]], "categories": [0]}}

A caption is called `text`, `caption` or `prompt`; boxes are xywh in pixels, categories names or numbers. Images are
named from the folder of the metadata.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmcore.base import tamed
from mmcore.base.hashing import mix
from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.captions import REQUESTS, CaptionOptions
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse, look
from mmcore.data.formats.jsonstream import FileBytes
from mmcore.data.formats.llava import LlavaParser, indexed, record_places
from mmcore.data.formats.rows import RowParser, Scanned, make_object, make_record, size_of
from mmcore.data.formats.spoken import RecordFault
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, Object, Record, file_name_defect, short
from mmcore.language.conversation import MARKER

METADATA = "metadata.jsonl"
CAPTIONS = ("text", "caption", "prompt")


class ObjectOptions(Recipe):
    """What a source of objects may choose."""

    names: tuple[str, ...] = ()
    """Names of the categories 0, 1, ... where they are numbers."""


@dataclass(frozen=True, slots=True)
class FolderCaptions:
    """Parser of captions; records are those of `mmcore.data.formats.llava.LlavaIndex`."""

    path: Path
    requests: tuple[str, ...] = REQUESTS

    columns: ClassVar[Mapping[str, Any]] = LlavaParser.columns

    @property
    def format(self) -> str:
        return "imagefolder-captions/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (metadata_file(self.path),)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"requests": list(self.requests)}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find the lines."""
        report("listing records", 0.0)
        places = np.array(list(record_places(metadata_file(self.path))), np.int64).reshape(-1, 2)
        np.save(folder / "places.npy", places)
        return Prepared(len(places), {})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """A caption answers a request to describe its image."""
        places = np.load(folder / "places.npy")[start:stop].tolist()
        with FileBytes(metadata_file(self.path)) as content:
            for number, (begin, end) in enumerate(places, start):
                yield indexed(*self._record(parsed(content.read(begin, end)), number))

    def _record(self, value: Any, number: int) -> tuple[dict[str, Any], RecordFault | None]:
        if not isinstance(value, dict):
            return {}, RecordFault("the line is not a JSON object", "the whole record")
        caption = next((value[key] for key in CAPTIONS if key in value), None)
        if not isinstance(caption, str) or not caption.strip():
            return {"id": number}, RecordFault(
                f"the caption is {caption!r}", f"field {CAPTIONS[0]}", ", ".join(CAPTIONS)
            )
        request = self.requests[mix(number) % len(self.requests)]
        said = caption.strip().replace(MARKER, "")
        turns = [{"from": "human", "value": f"{MARKER}\n{request}"}, {"from": "gpt", "value": said}]
        return {"id": number, "image": value.get("file_name"), "conversations": turns}, None


@dataclass(frozen=True)
class FolderObjects(RowParser):
    """Parser of boxes; records are images in the order of the metadata."""

    path: Path
    names: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        return "imagefolder-objects/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (metadata_file(self.path),)

    @property
    def options(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    def scan(self, report: Report) -> Scanned:
        """Every line, and the names that occur in all of them."""
        report("reading metadata", 0.0)
        file = metadata_file(self.path)
        with FileBytes(file) as content:
            rows = [parsed(content.read(begin, end)) for begin, end in record_places(file)]
        found = {category for row in rows for category in _listed(row, CATEGORIES) if isinstance(category, int | str)}
        named = sorted(category for category in found if isinstance(category, str))
        if self.names or named:
            return Scanned(rows, self.names or named)
        numbers = sorted(category for category in found if type(category) is int)
        return Scanned(rows, tuple(f"category {number}" for number in numbers), numbers)

    def record(self, row: Any, number: int, scanned: Scanned) -> Record:
        """The boxes of one line; the image's size comes from its header."""
        name = row.get("file_name") if isinstance(row, dict) else None
        if problem := file_name_defect(name):
            return make_record(str(name), number, (0, 0), [Defect("image", "file_name", problem, True)])
        place = str(name).replace("\\", "/")
        size, found = size_of(metadata_file(self.path).parent / place)
        made: list[Object | Defect] = [*found]
        boxes, categories = _listed(row, ("bbox",)), _listed(row, CATEGORIES)
        if len(boxes) != len(categories):
            text = f"{len(boxes)} boxes for {len(categories)} categories"
            made.append(Defect("image", "objects", text, True))
        for position, (box, category) in enumerate(zip(boxes, categories), 1):
            made.append(self._object(position, box, category, size, scanned))
        return make_record(place, number, size, found if found else made)

    def _object(
        self, position: int, box: Any, category: Any, size: tuple[int, int], scanned: Scanned
    ) -> Object | Defect:
        where, known = f"object {position}", list(scanned.labels or range(len(scanned.categories)))
        label = known.index(category) if type(category) is int and category in known else None
        if isinstance(category, str) and category in scanned.categories:
            label = list(scanned.categories).index(category)
        if label is None:
            return Defect(where, "categories", f"{category!r:.60} is not among the names", True)
        try:
            x, y, w, h = box
            corners = [x, y, x + w, y + h]
        except (TypeError, ValueError, OverflowError):
            return Defect(where, "bbox", f"box {short(box)} is not four numbers", True)
        return make_object(position, corners, label, size, where=where, field="bbox")


CATEGORIES = ("categories", "category", "label", "labels")


def metadata_file(path: Path) -> Path:
    """metadata.jsonl itself, where its folder may be named instead."""
    return path / METADATA if path.is_dir() else path


def parsed(text: bytes) -> Any:
    """A line's JSON value, None where it is none."""
    try:
        return tamed.loads(text)
    except ValueError:
        return None


def _listed(row: Any, keys: Sequence[str]) -> list[Any]:
    objects = row.get("objects") if isinstance(row, dict) else None
    found = next((objects[key] for key in keys if key in objects), None) if isinstance(objects, dict) else None
    return found if isinstance(found, list) else []


# ---- formats ----


def _first(glimpse: Glimpse) -> dict[str, Any]:
    inside = look(glimpse.path / METADATA) if METADATA in glimpse.names else glimpse
    first = inside.first if inside.kind in ("lines", "list") else None
    return first if isinstance(first, dict) and "file_name" in first else {}


def _write(folder: Path, *, objects: bool) -> Written:
    lines = []
    for scene in miniature.scenes():
        things = miniature.objects(scene)
        boxes = {"bbox": [thing.box_xywh for thing in things], "categories": [thing.kind for thing in things]}
        said = {"objects": boxes} if objects else {"text": miniature.caption(scene)}
        lines.append({"file_name": miniature.file_name(scene), **said})
    miniature.write_pictures(folder)
    miniature.write_lines(folder / METADATA, lines)
    return Written("")


FORMATS = (
    Format(
        name="image folder captions",
        title="metadata.jsonl with `file_name` and `text` beside the images",
        short=("imagefolder",),
        content="conversations",
        tasks=("caption",),
        parser=lambda files, options: FolderCaptions(files[0], options.requests or REQUESTS),
        options=CaptionOptions,
        files=("the folder",),
        sniff=lambda glimpse: bool(set(CAPTIONS) & _first(glimpse).keys()),
        sample=lambda folder: _write(folder, objects=False),
    ),
    Format(
        name="image folder objects",
        title="metadata.jsonl with `file_name` and `objects` of xywh boxes and categories beside the images",
        short=("imagefolder",),
        content="objects",
        tasks=("detect",),
        parser=lambda files, options: FolderObjects(files[0], options.names),
        options=ObjectOptions,
        files=("the folder",),
        evaluator="coco",
        truth="records",
        metric="bbox/AP",
        sniff=lambda glimpse: isinstance(_first(glimpse).get("objects"), dict),
        sample=lambda folder: _write(folder, objects=True),
    ),
)
