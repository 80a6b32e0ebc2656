"""Captions whose phrases have masks, as GranD-f gives them (Rasheed et al. 2024): a list of images, each with its text.

    [{"file_name": "a.jpg", "caption": "A cat on a mat.",
      "groundings": {"A cat": {"token_positives": [0, 5], "rle_masks": [{"size": [h, w], "counts": "..."}]}}}]

`token_positives` is one span of characters; a list of spans gives the phrase's first. Polygons may stand in
`polygons` beside or instead of `rle_masks`, a box in `bbox` (xyxy pixels). Spans may not overlap.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.jsonstream import FileBytes
from mmcore.data.formats.llava import record_places
from mmcore.data.formats.plain_values import clean_segmentation
from mmcore.data.grounded import COLUMNS, Grounded, Part, span_fault
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, file_name_defect
from mmcore.errors import DataError

_PLACES = "places.npy"


@dataclass(frozen=True, slots=True)
class GroundedCaptions:
    """Parser of one file.

    Attributes:
        path: JSON list or JSON Lines.
        checked: refuse spans that overlap or lie outside; False keeps every span as the file has it.
    """

    path: Path
    checked: bool = True

    columns: ClassVar[Mapping[str, Any]] = COLUMNS

    @property
    def format(self) -> str:
        return "grounded-captions/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"checked": self.checked}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find where each record lies."""
        return list_places(self.path, folder, report)

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        for number, value in read_places(self.path, folder, start, stop):
            record = self.understand(value, number)
            yield record.to_bytes(), record.facts()

    def understand(self, value: Any, number: int) -> Grounded:
        """A record of the file, with whatever is wrong with it; `number` is its place and stands for a missing id."""
        return understand(value, number, checked=self.checked)


def list_places(path: Path, folder: Path, report: Report) -> Prepared:
    """Note in `folder` where each record of a JSON list or of JSON Lines lies.

    Raises:
        DataError: the file is neither, or empty.
    """
    report(f"scanning {path.name}", 0.0)
    places = np.array(list(record_places(path)), np.int64).reshape(-1, 2)
    if not len(places):
        raise DataError("the file has no records", where=path, do="check that it is the right file")
    np.save(folder / _PLACES, places)
    return Prepared(len(places), {})


def read_places(path: Path, folder: Path, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """The records from `start` to `stop` with their numbers, of what `list_places` noted."""
    places = np.load(folder / _PLACES, mmap_mode="r")[start:stop].tolist()
    with FileBytes(path) as content:
        for number, (begin, end) in enumerate(places, start):
            yield number, content.value(begin, end)


def understand(value: Any, number: int, *, checked: bool = True) -> Grounded:
    """A record of the file, with whatever is wrong with it.

    Args:
        value: one element of the list.
        number: its place, which stands for a missing id.
        checked: see `GroundedCaptions`.
    """
    if not isinstance(value, dict):
        return broken("?", number, "the whole record", f"the record is a {type(value).__name__}, not an object")
    name, caption, groundings = value.get("file_name"), value.get("caption"), value.get("groundings")
    id_ = value.get("id", number)
    if problem := file_name_defect(name):
        return broken(str(name), id_, "file_name", problem)
    if not isinstance(caption, str) or not isinstance(groundings, dict):
        lacks = "caption" if not isinstance(caption, str) else "groundings"
        return broken(str(name), id_, lacks, f"there is no {lacks}")
    parts, defects = [], []
    for phrase, grounding in groundings.items():
        found = _part(phrase, grounding)
        (parts if isinstance(found, Part) else defects).append(found)
    # The published reading strips quotes and blanks, whatever the spans then mean; they are counted in what is left.
    text = caption.strip('"').strip()
    fault = span_fault(text, [part.span for part in parts if part.span]) if checked else None
    if fault:
        defects.append(Defect("caption", "groundings.token_positives", fault, True))
    return Grounded(str(name).replace("\\", "/"), id_, tuple(parts), text, tuple(defects))


def broken(image: str, id_: Any, field: str, problem: str) -> Grounded:
    """A record of which nothing can be used."""
    return Grounded(
        image, id_ if isinstance(id_, int | str) else "?", (), "", (Defect("record", field, problem, True),)
    )


def _part(phrase: str, grounding: Any) -> Part | Defect:
    where = f"phrase {phrase!r:.60}"
    if not isinstance(grounding, dict):
        return Defect(where, "groundings", f"its grounding is a {type(grounding).__name__}, not an object", True)
    span = grounding.get("token_positives")
    if isinstance(span, list) and span and isinstance(span[0], list):
        span = span[0]
    if not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)):
        return Defect(where, "token_positives", f"{span!r:.60} is not [start, end]", True)
    lists = {name: grounding.get(name) or [] for name in ("rle_masks", "polygons", "bbox")}
    if wrong := next((name for name, given in lists.items() if not isinstance(given, list)), None):
        return Defect(where, wrong, f"it is a {type(lists[wrong]).__name__}, not a list", True)
    box = lists["bbox"]
    shapes = [clean_segmentation(one) for one in lists["rle_masks"]]
    shapes += clean_segmentation(lists["polygons"])
    if not all(isinstance(one, dict | list) for one in shapes):
        return Defect(where, "rle_masks", "a mask is neither an RLE nor a polygon", True)
    if not shapes and not box:
        return Defect(where, "rle_masks", "the phrase has neither a mask nor a box", True)
    return Part(phrase, tuple(box) if box else None, (tuple(shapes),) if shapes else (), (span[0], span[1]))


# ---- formats ----


class SpanOptions(Recipe):
    """What a source of a published set of captions with phrases may choose."""

    published_spans: bool = False
    """Take spans as the released reader does, also where they overlap, lie outside or are empty."""


def _write(folder: Path) -> Written:
    records = []
    for scene in miniature.scenes():
        text, groundings = "A picture with", {}
        for number, thing in enumerate(miniature.objects(scene)):
            text += " and " if number else " "
            phrase = f"a {thing.colour} {thing.kind}"
            shapes = thing.segmentation
            masks_of = {"rle_masks": [shapes]} if isinstance(shapes, dict) else {"polygons": shapes}
            groundings[phrase] = {"token_positives": [len(text), len(text) + len(phrase)], **masks_of}
            text += phrase
        records.append({"file_name": miniature.file_name(scene), "caption": f"{text}.", "groundings": groundings})
    miniature.write_pictures(folder / "images")
    miniature.write_json(folder / "grounded.json", records)
    return Written("grounded.json", "images")


FORMATS = (
    Format(
        name="grounded captions",
        short=("grounded",),
        title="captions whose phrases have masks, as in GranD-f: `caption` and `groundings` beside each image",
        content="grounded",
        tasks=("grounded_caption",),
        parser=lambda files, options: GroundedCaptions(files[0]),
        has_masks=True,
        sniff=lambda glimpse: glimpse.records_have("file_name", "caption", "groundings"),
        sample=_write,
    ),
)

GRANDF = "GranD-f"
PUBLISHED = (
    Format(
        name=GRANDF,
        title="grounded captions of GranD-f by people, and of Open-PSG",
        content="grounded",
        tasks=("grounded_caption",),
        parser=lambda files, options: GroundedCaptions(files[0], checked=not options.published_spans),
        options=SpanOptions,
        has_masks=True,
    ),
)
"""The published sets in this form, whose spans may be taken as they are."""
