"""ODVG JSON Lines (Grounding DINO's training format, as MM-Grounding-DINO and Open-GroundingDino read it).

    {"filename": "a.jpg", "height": 480, "width": 640,
     "detection": {"instances": [{"bbox": [x0, y0, x1, y1], "label": 0, "category": "cup"}]}}
    {"filename": "b.jpg", "height": 480, "width": 640,
     "grounding": {"caption": "a cup on a plate", "regions": [{"bbox": [x0, y0, x1, y1], "phrase": "a cup"}]}}

Boxes are xyxy in pixels; a region may have several boxes, or several phrases, of which the first names it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmcore.base import tamed
from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.jsonstream import FileBytes
from mmcore.data.formats.llava import record_places
from mmcore.data.formats.rows import RowParser, Scanned, make_object, make_record
from mmcore.data.index import Report
from mmcore.data.records import Defect, Object, Record, file_name_defect, is_side, short
from mmcore.errors import DataError


class OdvgOptions(Recipe):
    """What a source of ODVG detection may choose."""

    names: tuple[str, ...] = ()
    """Names of the labels 0, 1, ... where instances have no `category`, as a label map gives them."""


LISTS = {"detection": "instances", "grounding": "regions"}
"""Where the objects of a line stand, below its part."""


@dataclass(frozen=True)
class Odvg(RowParser):
    """Parser of one file; records are images in the order of the file."""

    path: Path
    part: Literal["detection", "grounding"]
    names: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        return "odvg/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> dict[str, Any]:
        return {"part": self.part, "names": list(self.names)}

    def scan(self, report: Report) -> Scanned:
        report(f"reading {self.path.name}", 0.0)
        places, names = [], dict[int, str]()
        with FileBytes(self.path) as content:
            for begin, end in record_places(self.path):
                places.append((begin, end))
                for item in _items(_value(content.read(begin, end)), self.part):
                    label, category = item.get("label"), item.get("category")
                    if type(label) is int and isinstance(category, str):
                        names.setdefault(label, category)
        if self.part == "grounding":
            return Scanned(places, ("object",))
        known = self.names or tuple(names[label] for label in sorted(names))
        if not known:
            raise DataError(
                "no instance has a category, and no names of labels are given",
                where=self.path,
                do="give the label map's names: options: {names: [cup, plate, ...]}",
            )
        return Scanned(places, known, range(len(known)) if self.names else sorted(names))

    def record(self, row: Sequence[int], number: int, scanned: Scanned) -> Record:
        with FileBytes(self.path) as content:
            value = _value(content.read(row[0], row[1]))
        if not isinstance(value, dict):
            defect = Defect("line", "the whole record", "not a JSON object", True)
            return Record("", number, 0, 0, (), (), (defect,))
        found: list[Object | Defect] = []
        if problem := file_name_defect(value.get("filename")):
            found.append(Defect("image", "filename", problem, True))
        height, width = value.get("height"), value.get("width")
        if not (is_side(height) and is_side(width)):
            sides = f"{short((height, width))} is not a height and width in pixels"
            found.append(Defect("image", "height", sides, True))
            return make_record(str(value.get("filename")), number, (0, 0), found)
        listed = _listed(value, self.part)
        if listed and not (isinstance(listed, list) and all(isinstance(item, dict) for item in listed)):
            found.append(Defect(self.part, LISTS[self.part], f"{short(listed)} is not a list of objects", True))
        phrases: list[str] = []
        assert type(height) is int
        assert type(width) is int
        size = height, width
        for place, item in enumerate(_items(value, self.part), 1):
            detected = self.part == "detection"
            made = self._detected(item, place, size, scanned) if detected else self._region(item, place, size)
            found += [one for one, _ in made]
            phrases += [phrase for one, phrase in made if isinstance(one, Object)]
        name = str(value.get("filename")).replace("\\", "/")
        return make_record(name, number, size, found, phrases=phrases if self.part == "grounding" else ())

    def _detected(
        self, item: dict[str, Any], place: int, size: tuple[int, int], scanned: Scanned
    ) -> list[tuple[Object | Defect, str]]:
        where, label = f"instance {place}", item.get("label")
        if label not in scanned.labels:
            return [(Defect(where, "label", f"label {label!r:.60} has no category", True), "")]
        box, category = item.get("bbox"), scanned.labels.index(label)
        return [(make_object(place, box, category, size, where=where, field="bbox"), "")]  # type: ignore[arg-type]

    def _region(self, item: dict[str, Any], place: int, size: tuple[int, int]) -> list[tuple[Object | Defect, str]]:
        where, phrase, boxes = f"region {place}", item.get("phrase"), item.get("bbox")
        phrase = phrase[0] if isinstance(phrase, list) and phrase else phrase
        if not isinstance(phrase, str) or not phrase.strip():
            return [(Defect(where, "phrase", f"{phrase!r:.60} is no phrase", True), "")]
        several = boxes if isinstance(boxes, list) and boxes and isinstance(boxes[0], list) else [boxes]
        return [
            (make_object(place * 1000 + n, box, 0, size, where=where, field="bbox"), phrase)  # type: ignore[arg-type]
            for n, box in enumerate(several)
        ]


def _value(text: bytes) -> Any:
    try:
        return tamed.loads(text)
    except ValueError:
        return None


def _items(value: Any, part: str) -> Iterator[dict[str, Any]]:
    """The instances or regions of a record that are objects."""
    listed = _listed(value, part)
    yield from (item for item in (listed if isinstance(listed, list) else ()) if isinstance(item, dict))


def _listed(value: Any, part: str) -> Any:
    inside = value.get(part) if isinstance(value, dict) else None
    return inside.get(LISTS[part]) if isinstance(inside, dict) else None


# ---- formats ----


def _write(folder: Path, part: Literal["detection", "grounding"]) -> Written:
    names, lines = miniature.kinds(), []
    for scene in miniature.scenes():
        items = []
        for thing in miniature.objects(scene):
            x, y, w, h = thing.box_xywh
            box = {"bbox": [x, y, x + w, y + h]}
            named = {"label": names.index(thing.kind), "category": thing.kind}
            items.append({**box, **(named if part == "detection" else {"phrase": f"a {thing.colour} {thing.kind}"})})
        said = {"instances": items} if part == "detection" else {"caption": miniature.caption(scene), "regions": items}
        size = {"height": scene.height, "width": scene.width}
        lines.append({"filename": miniature.file_name(scene), **size, part: said})
    miniature.write_pictures(folder / "images")
    miniature.write_lines(folder / f"{part}.jsonl", lines)
    return Written(f"{part}.jsonl", "images")


def _has(glimpse: Glimpse, part: str) -> bool:
    return glimpse.records_have("filename", part)


FORMATS = (
    Format(
        name="ODVG detection",
        title="JSON Lines with `detection`: boxes with labels and categories",
        short=("odvg",),
        content="objects",
        tasks=("detect",),
        parser=lambda files, options: Odvg(files[0], "detection", options.names),
        options=OdvgOptions,
        evaluator="coco",
        truth="records",
        metric="bbox/AP",
        sniff=lambda glimpse: _has(glimpse, "detection"),
        sample=lambda folder: _write(folder, "detection"),
    ),
    Format(
        name="ODVG grounding",
        title="JSON Lines with `grounding`: a caption and boxes for its phrases",
        short=("odvg",),
        content="objects",
        tasks=("ground",),
        parser=lambda files, options: Odvg(files[0], "grounding"),
        sniff=lambda glimpse: _has(glimpse, "grounding"),
        sample=lambda folder: _write(folder, "grounding"),
    ),
)
