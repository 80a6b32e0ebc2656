"""JSON Lines of boxes (Griffon-G-CCMD-8M, Zhan et al. 2024): one picture, expression or description a line.

    DET, RANDDET  {"image_path", "dataset_name", "height", "width",
                   "objects": [{"category_name": "cat", "bboxes": [[x0, y0, x1, y1], ...]}, ...]}
    VISJ          the same; one of the classes is shown by one of its boxes
    VG            {"image_path", "height", "width", "expression": "...", "bboxes": [[x0, y0, x1, y1], ...]}
    REG           the same; `bboxes` may be one box, and expressions a list of which the first counts (Osprey)
    REC           {"img_path", "height", "width", "expression": "...", "bbox": [x0, y0, x1, y1]}, for evaluation

Boxes are xyxy in pixels of the original picture. A class without boxes is known not to be in the picture. A line that
cannot be used keeps its place and raises when it is read; `mmcore data check` lists all of them by line.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int

from mmcore.contract.recipe import Recipe
from mmcore.contract.values import Box
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.jsonstream import FileBytes
from mmcore.data.formats.spoken import RecordFault
from mmcore.data.index import Index, Prepared, Report
from mmcore.data.named_boxes import Scene
from mmcore.data.records import file_name_defect
from mmcore.errors import DataError

Kind = Literal["DET", "RANDDET", "VISJ", "VG", "REG", "REC"]
MARKERS = ("<image>", "<region>")
TOLERANCE_PX = 2.0
"""How far a box may reach outside its picture; published answers are cut at the border."""


class LineOptions(Recipe):
    """What a source of such lines may choose."""

    box_tolerance_px: float = TOLERANCE_PX
    """How far a box may reach outside its picture before the line counts as wrong."""


@dataclass(frozen=True)
class LineParser:
    """Parser of one file."""

    path: Path
    kind: Kind
    box_tolerance_px: float = TOLERANCE_PX
    columns: ClassVar[Mapping[str, type]] = {"num_boxes": np.int32, "bad": np.uint8}

    @property
    def format(self) -> str:
        return "box-lines/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> dict[str, Any]:
        return {"kind": self.kind, "box_tolerance_px": self.box_tolerance_px}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find the lines; those of detection without any class are left out, as the published loader does."""
        report(f"reading {self.path.name}", 0.0)
        places, empty = [], []
        names: dict[str, None] = {}
        with open(self.path, "rb") as file:
            place = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    value = self._value(line)
                    if self._is_empty(value):
                        empty.append(number)
                    else:
                        places.append((place, place + len(line), number))
                    names |= dict.fromkeys(_categories(value))
                place += len(line)
        if not places:
            raise DataError("the file has no line that can be used", where=self.path, do="check that it is the file")
        np.save(folder / "places.npy", np.array(places, np.int64))
        return Prepared(len(places), {"categories": list(names), "empty": empty})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The records of some lines."""
        places = np.load(folder / "places.npy", mmap_mode="r")
        with FileBytes(self.path) as content:
            for begin, end, number in places[start:stop].tolist():
                found = self.understand(content.read(begin, end))
                bad = isinstance(found, RecordFault)
                counted = 0 if bad else sum(len(boxes) for boxes in found[3])
                record = [number, None, list(found)] if bad else [number, found, None]
                yield json.dumps(record, separators=(",", ":")).encode(), {"num_boxes": counted, "bad": int(bad)}

    def understand(self, line: bytes) -> list[Any] | RecordFault:
        """Picture, size, names and boxes of a line, or what is wrong with it."""
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return RecordFault(f"not valid JSON: {error}", "the whole line")
        if not isinstance(record, dict):
            return RecordFault(f"the line is a {type(record).__name__}, not an object", "the whole line")
        image = _image(record, self.kind)
        size = _size(record)
        if isinstance(image, RecordFault) or isinstance(size, RecordFault):
            return image if isinstance(image, RecordFault) else size  # type: ignore[return-value]
        pairs = _objects(record) if self.kind in ("DET", "RANDDET", "VISJ") else _spoken(record, self.kind)
        if isinstance(pairs, RecordFault):
            return pairs
        for name, boxes in pairs:
            if marker := next((marker for marker in MARKERS if marker in name), None):
                return RecordFault(f"{name!r:.60} holds {marker}, which stands for a picture", "names and expressions")
            for box in boxes:
                if wrong := _wrong_box(box, size, self.box_tolerance_px):
                    return RecordFault(wrong, f"boxes of {name!r:.60}")
        if self.kind == "VISJ" and not any(boxes for _, boxes in pairs):
            return RecordFault("no class has a box, so nothing can be shown", "objects")
        return [image, list(size), [name for name, _ in pairs], [boxes for _, boxes in pairs]]

    def _value(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None

    def _is_empty(self, value: Any) -> bool:
        return self.kind in ("DET", "RANDDET") and isinstance(value, dict) and value.get("objects") == []


class LineScenes:
    """The records of one file by position; small, picklable, files opened when first read."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Scene:
        """Record `position`.

        Raises:
            DataError: its line cannot be used; names file, line and field.
        """
        number, found, fault = json.loads(self.index[position])
        if fault is not None:
            raise self._error(number, RecordFault(*fault))
        image, (height, width), names, boxes = found
        placed = tuple(tuple(tuple(box) for box in several) for several in boxes)
        where = f"{self.index.label}, line {number}"
        return Scene(image, image, (height, width), tuple(names), placed, where)  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        """Content hash of the file."""
        return self.index.fingerprint

    def unusable(self, position: int) -> bool:
        """Whether the line at `position` cannot be used."""
        return bool(self.index.column("bad")[position])

    def problems(self) -> Iterator[DataError]:
        """Every line that cannot be used, and those of detection that name no class."""
        for position in np.flatnonzero(self.index.column("bad")).tolist():
            number, _, fault = json.loads(self.index[position])
            yield self._error(number, RecordFault(*fault))
        for number in self.index.meta["empty"]:
            yield self._error(number, RecordFault("the list of classes is empty; the line is left out", "objects"))

    def left_out(self) -> dict[str, int]:
        """How many lines cannot be used, and how many name no class."""
        unusable, empty = int(np.count_nonzero(self.index.column("bad"))), len(self.index.meta["empty"])
        found = {"lines unusable": unusable, "lines without a class left out": empty}
        return {what: count for what, count in found.items() if count}

    def num_boxes(self) -> Int[np.ndarray, " records"]:
        """Boxes of each line."""
        return np.asarray(self.index.column("num_boxes"))

    def categories(self) -> tuple[str, ...]:
        """Every class that a line names, in order; none of expressions."""
        return tuple(self.index.meta["categories"])

    def _error(self, number: int, fault: RecordFault) -> DataError:
        where = f"{self.index.label}, line {number}, {fault.field}"
        return DataError(fault.what, where=where, known=fault.known, do=fault.do or "correct or remove the line")


# ---- a line's fields ----


def _image(record: Mapping[str, Any], kind: Kind) -> str | RecordFault:
    key = "img_path" if kind == "REC" else "image_path"
    name = record.get(key)
    if isinstance(name, str) and kind in ("DET", "RANDDET") and record.get("dataset_name") == "OBJ365":
        name = "/".join(name.replace("\\", "/").split("/")[-2:])  # its published paths are those of a machine
    if defect := file_name_defect(name):
        return RecordFault(defect, f"field {key}")
    return str(name).replace("\\", "/")


def _size(record: Mapping[str, Any]) -> tuple[int, int] | RecordFault:
    given = record.get("height"), record.get("width")
    if not all(isinstance(side, int | float) and not isinstance(side, bool) and 0 < side < 1e7 for side in given):
        return RecordFault(f"height and width are {given[0]!r} and {given[1]!r}", "fields height and width")
    return int(given[0]), int(given[1])  # type: ignore[arg-type]


def _objects(record: Mapping[str, Any]) -> list[tuple[str, list[Box]]] | RecordFault:
    """The classes of a line with their boxes; a class that stands twice stays twice."""
    given = record.get("objects")
    if not isinstance(given, list):
        return RecordFault("there is no list of objects", "field objects", '{"category_name": ..., "bboxes": [...]}')
    if not given:
        return RecordFault("the list of classes is empty", "field objects")
    pairs = []
    for number, item in enumerate(given):
        name = item.get("category_name") if isinstance(item, dict) else None
        boxes = item.get("bboxes") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name.strip():
            return RecordFault(f"class name {name!r} is no text", f"objects, entry {number}, field category_name")
        if not isinstance(boxes, list):
            return RecordFault(f"the boxes of {name!r} are no list", f"objects, entry {number}, field bboxes")
        pairs.append((name, boxes))
    return pairs


def _spoken(record: Mapping[str, Any], kind: Kind) -> list[tuple[str, list[Box]]] | RecordFault:
    """What is said and the boxes it is about."""
    said, key = record.get("expression"), "bbox" if kind == "REC" else "bboxes"
    boxes: Any = record.get(key)
    if isinstance(said, list) and said and kind == "REG" and isinstance(boxes, list) and boxes:
        said, boxes = said[0], boxes[0]
    if not isinstance(said, str) or not said.strip():
        return RecordFault(f"expression {said!r} is no text", "field expression")
    if not isinstance(boxes, list):
        return RecordFault(f"{key} {boxes!r:.60} is no list", f"field {key}")
    if kind == "REC" or (kind == "REG" and boxes and not isinstance(boxes[0], list)):
        boxes = [boxes]
    if kind == "REG" and not boxes:
        return RecordFault("a description needs a box", f"field {key}")
    return [(said, boxes)]


def _wrong_box(box: Any, size: tuple[int, int], tolerance_px: float) -> str | None:
    """What is wrong with a box, as a sentence."""
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(type(side) in (int, float) and math.isfinite(side) for side in box):
        return f"box {box!r:.60} is not four finite numbers [x0, y0, x1, y1]"
    if box[2] < box[0] or box[3] < box[1]:
        return f"box {box} is turned around: boxes are [x0, y0, x1, y1], not [x, y, width, height]"
    outside = max(-box[0], -box[1], box[2] - size[1], box[3] - size[0])
    if outside > tolerance_px:
        return f"box {box} lies {outside:g} pixels outside its {size[1]}x{size[0]} picture"
    return None


def _categories(value: Any) -> Iterator[str]:
    """The class names of a line, whatever else is wrong with it."""
    objects = value.get("objects") if isinstance(value, dict) else None
    for item in objects if isinstance(objects, list) else ():
        name = item.get("category_name") if isinstance(item, dict) else None
        if isinstance(name, str) and name.strip():
            yield name


# ---- formats ----


KINDS: Mapping[str, Kind] = {f"{kind} lines": kind for kind in ("DET", "RANDDET", "VISJ", "VG", "REG", "REC")}  # type: ignore[misc]
"""Format -> kind of its lines."""


def _write(kind: Kind, folder: Path) -> Written:
    miniature.write_pictures(folder / "images")
    lines: list[dict[str, Any]] = []
    for scene in miniature.scenes():
        things = miniature.objects(scene)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (thing.box_xywh for thing in things)]
        size = {"height": scene.height, "width": scene.width}
        where = {"img_path" if kind == "REC" else "image_path": miniature.file_name(scene), **size}
        if kind in ("DET", "RANDDET", "VISJ"):
            kinds = dict.fromkeys(thing.kind for thing in things)
            objects = [
                {"category_name": name, "bboxes": [box for box, thing in zip(boxes, things) if thing.kind == name]}
                for name in kinds
            ]
            lines.append({**where, "dataset_name": "sample", "objects": objects})
        else:
            key, given = {"REC": ("bbox", boxes[0]), "REG": ("bboxes", boxes[0])}.get(kind, ("bboxes", boxes[:1]))
            lines.append({**where, "expression": f"the {things[0].colour} {things[0].kind}".strip(), key: given})
    miniature.write_lines(folder / "lines.jsonl", lines)
    return Written("lines.jsonl", "images")


def _sniff(kind: Kind, glimpse: Glimpse) -> bool:
    if kind == "REC":
        return glimpse.records_have("img_path", "expression", "bbox")
    if kind in ("DET", "VISJ"):
        named = glimpse.records_have("dataset_name")
        return glimpse.records_have("image_path", "objects") and named == (kind == "DET")
    if kind == "RANDDET" or not glimpse.records_have("image_path", "expression", "bboxes"):
        return False
    boxes = glimpse.first["bboxes"] if isinstance(glimpse.first, dict) else None
    listed = isinstance(glimpse.first.get("expression"), list) if isinstance(glimpse.first, dict) else False
    flat = isinstance(boxes, list) and bool(boxes) and not isinstance(boxes[0], list)
    return (listed or flat) == (kind == "REG")


def _format(kind: Kind, short: str, title: str, task: str, metric: str | None) -> Format:
    return Format(
        name=f"{kind} lines",
        short=(short,),
        title=title,
        content="own",
        tasks=(task,),
        metric=metric,
        parser=lambda files, options: LineParser(files[0], kind, options.box_tolerance_px),
        options=LineOptions,
        sniff=partial(_sniff, kind),
        sample=partial(_write, kind),
    )


FORMATS = (
    _format("DET", "det", "a picture's classes with their boxes, one picture a line", "detect", "bbox/AP"),
    _format("RANDDET", "randdet", "the same, asked for by exactly these classes", "detect", "bbox/AP"),
    _format("VISJ", "visj", "the same, of which one class is shown by an example and counted", "count", None),
    _format("VG", "vg", "an expression with its boxes, or with none", "ground", "any"),
    _format("REG", "reg", "a box with its description", "region_caption", None),
    _format("REC", "rec", "an expression with its one box, for evaluation", "refer", "accuracy@0.5"),
)
"""For families that read such lines (`LineScenes`): they return them from the hook `annotation_formats`."""
