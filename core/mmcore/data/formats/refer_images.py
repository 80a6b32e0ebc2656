"""Referring expressions by image: RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO as distributed.

    refs(unc).p or .json, grefs(unc).p or .json   references, each with its sentences, its split and one object,
                                                  several, or none (gRefCOCO: ann_id is a list, [-1] means nothing)
    instances.json                                the images and annotations that they refer to

A record is an image with all sentences of the split, in the order of the references.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmcore.data.formats.format import Format
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.formats.plain_pickle import load_plain
from mmcore.data.formats.plain_values import clean_segmentation, whole
from mmcore.data.formats.refer import ReferOptions, find_references
from mmcore.data.grounded import COLUMNS, Grounded, Part, Shape
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, file_name_defect
from mmcore.errors import DataError, suggest

_FIELDS = ("ref_id", "image_id", "ann_id", "split", "sentences")


@dataclass(frozen=True, slots=True)
class ReferImages:
    """Parser of one data set and split.

    Attributes:
        references: the pickle or JSON of references; the one beside it is taken where this one is missing.
        instances: `instances.json`.
        split: train and val as they are; test, testA and testB also of references marked testAB, as published.
    """

    references: Path
    instances: Path
    split: str

    columns: ClassVar[Mapping[str, Any]] = COLUMNS

    @property
    def format(self) -> str:
        return "refer-images/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (find_references(self.references), self.instances)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"split": self.split}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Group the split's references by image."""
        report("reading references", 0.0)
        path = find_references(self.references)
        references = _read(path)
        splits = sorted({reference["split"] for reference in references})
        chosen = [reference for reference in references if _of_split(reference["split"], self.split)]
        if not chosen:
            do = suggest(self.split, splits, "choose one of these")
            raise DataError(f"there is no split {self.split!r}", where=path, known=splits, do=do)
        groups: dict[int, list[dict[str, Any]]] = {}
        for reference in chosen:
            kept = {"ann_id": reference["ann_id"], "sentences": [one["sent"] for one in reference["sentences"]]}
            groups.setdefault(reference["image_id"], []).append(kept)
        # The published reader takes the ids through a set; which images a capped validation has follows from that.
        order = list({reference["image_id"] for reference in chosen})
        (folder / "images.json").write_text(json.dumps([[number, groups[number]] for number in order]))
        return Prepared(len(order), {"splits": splits})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        rows = json.loads((folder / "images.json").read_text())[start:stop]
        places = self._places()
        with FileBytes(self.instances) as content:
            for image_id, references in rows:
                record = _record(image_id, references, places, content)
                yield record.to_bytes(), record.facts()

    def _places(self) -> dict[str, dict[int, tuple[int, int]]]:
        places: dict[str, dict[int, tuple[int, int]]] = {"images": {}, "annotations": {}}
        for key, start, end, value in walk(self.instances):
            if key in places:
                if not isinstance(value, dict) or type(whole(value.get("id"))) is not int:
                    raise DataError(f"an element of {key} has no id", where=f"{self.instances}, byte {start}")
                places[key][whole(value["id"])] = (start, end)
        return places


def _record(image_id: int, references: list[Any], places: dict[str, Any], content: FileBytes) -> Grounded:
    place = places["images"].get(image_id)
    image = content.value(*place) if place else {}
    name = image.get("file_name")
    if problem := file_name_defect(name):
        missing = problem if image else f"image {image_id} is not in {content.path.name}"
        return Grounded(str(name), image_id, (), "", (Defect("reference", "image_id", missing, True),))
    parts: list[Part] = []
    defects: list[Defect] = []
    for reference in references:
        given = reference["ann_id"]
        objects: list[tuple[Shape, ...]] = []
        for number in given if isinstance(given, list) else [given]:
            span = places["annotations"].get(number)
            if number == -1:
                continue
            if span is None:
                missing = f"annotation {number} is not in {content.path.name}"
                defects.append(Defect("reference", "ann_id", missing, True))
                continue
            shapes = clean_segmentation(content.value(*span).get("segmentation") or [])
            objects.append(tuple(shapes) if isinstance(shapes, list) else (shapes,))
        parts += [Part(sentence, None, tuple(objects)) for sentence in reference["sentences"]]
    return Grounded(str(name), image_id, tuple(parts), "", tuple(defects))


def _of_split(given: str, wanted: str) -> bool:
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in given
    return wanted in given if wanted == "test" else given == wanted


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".p":
        content = load_plain(path)
    else:
        with FileBytes(path) as file:
            content = [file.value(start, end) for _, start, end, _ in walk(path)]
    if not isinstance(content, list):
        raise DataError(f"holds a {type(content).__name__}, not a list of references", where=path)
    for number, reference in enumerate(content):
        if not isinstance(reference, dict) or not all(field in reference for field in _FIELDS):
            raise DataError(f"reference {number} lacks a field", where=path, known=_FIELDS, do="fetch the file again")
        sentences = reference["sentences"]
        if not all(isinstance(one, dict) and isinstance(one.get("sent"), str) for one in sentences):
            raise DataError(f"reference {number}: a sentence has no text 'sent'", where=path)
        ids = reference["ann_id"] if isinstance(reference["ann_id"], list) else [reference["ann_id"]]
        if not all(type(one) is int for one in (*ids, reference["image_id"])):
            raise DataError(f"reference {number}: an id is not a whole number", where=path)
        reference["split"] = str(reference["split"])
    return content


# ---- formats ----


REFER_IMAGES = "RefCOCO by image"
FORMATS = (
    Format(
        name=REFER_IMAGES,
        title="RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO as distributed, all expressions of an image together",
        content="grounded",
        tasks=("refer",),
        parser=lambda files, options: ReferImages(files[0], files[1], options.split),
        options=ReferOptions,
        files=("references", "instances.json"),
        also=".json",
        has_masks=True,
    ),
)
