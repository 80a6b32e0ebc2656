"""RefCOCO, RefCOCO+ and RefCOCOg as published (Yu et al. 2016, Mao et al. 2016): references beside COCO instances.

    refs(unc).p, refs(google).p, refs(umd).p   a pickled list of references, each with its sentences and its split
    refs(unc).json                             the same list as JSON, which needs no unpickling
    instances.json                             the images, annotations and categories that they refer to

One record is one reference: an image, one object, and the sentences that mean it. The merged files that GLEE trains on
(`instances_train.json` with `expressions`) are plain COCO; read them with `RefCoco`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.categories import category_names
from mmcore.data.formats.coco import CocoInstances, read_elements
from mmcore.data.formats.coco_objects import to_object
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.formats.plain_pickle import load_plain
from mmcore.data.formats.plain_values import clean_annotation, clean_image, whole
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, Object, Record, file_name_defect, is_side
from mmcore.errors import DataError, MissingDataError, suggest


def RefCoco(path: Path) -> CocoInstances:  # noqa: N802 - reads like the parser that it makes
    """Parser of a RefCOCO file in COCO form: one image entry, one object and its `expressions` per record."""
    return CocoInstances(path, one_object=True, expressions=True)


@dataclass(frozen=True, slots=True)
class Refer:
    """Parser of the published references of one data set, split by its own file.

    Attributes:
        references: `refs(*).p` or `refs(*).json`; of a missing `.p` the `.json` beside it is taken.
        instances: `instances.json` of the same folder.
        split: train, val, testA, testB or test, as the references name it.
        box_tolerance_px: how far a box may reach outside its image; farther makes the record unusable.
    """

    references: Path
    instances: Path
    split: str
    box_tolerance_px: float = 2.0

    @property
    def format(self) -> str:
        return "refer/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (find_references(self.references), self.instances)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"split": self.split, "box_tolerance_px": self.box_tolerance_px}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        report("reading references", 0.0)
        path = find_references(self.references)
        references = load_references(path)
        splits = Counter(reference["split"] for reference in references)
        if self.split not in splits:
            raise DataError(
                f"there is no split {self.split!r}",
                where=path,
                known=[f"{name} ({number})" for name, number in splits.items()],
                do=suggest(self.split, splits, "choose one of these"),
            )
        chosen = [reference for reference in references if reference["split"] == self.split]
        (folder / "references.json").write_text(json.dumps(chosen))
        report(f"scanning {self.instances.name}", 0.5)
        return Prepared(len(chosen), {"categories": list(self._instances()[2].values()), "splits": dict(splits)})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        references = json.loads((folder / "references.json").read_text())[start:stop]
        images, annotations, names = self._instances()
        numbers = {id_: number for number, id_ in enumerate(names)}
        with FileBytes(self.instances) as content:
            for reference in references:
                place = images.get(reference["image_id"])
                image = clean_image(content.value(*place)) if place else {}
                span = annotations.get(reference["ann_id"])
                annotation = clean_annotation(content.value(*span)) if span else None
                record = self._record(reference, image, annotation, numbers)
                yield record.to_bytes(), record.facts()

    def _instances(self) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]], dict[int, str]]:
        """Places of images and annotations by id, and category names in order of their id."""
        places: dict[str, dict[int, tuple[int, int]]] = {"images": {}, "annotations": {}}
        categories: list[tuple[int, int]] = []
        for key, start, end, value in walk(self.instances):
            try:
                if key in places:
                    places[key][whole(value["id"])] = (start, end)
                elif key == "categories":
                    categories.append((start, end))
            except (KeyError, TypeError):
                raise DataError(f"an element of {key} has no id", where=f"{self.instances}, byte {start}") from None
        return (
            places["images"],
            places["annotations"],
            category_names(read_elements(self.instances, categories), self.instances),
        )

    def _record(
        self,
        reference: dict[str, Any],
        image: dict[str, Any],
        annotation: dict[str, Any] | None,
        numbers: dict[int, int],
    ) -> Record:
        name = image.get("file_name", reference.get("file_name"))
        height, width = (image[side] if is_side(image.get(side)) else 0 for side in ("height", "width"))
        defects, objects = [], []
        if not image:
            missing = f"image {reference['image_id']} is not in {self.instances.name}"
            defects.append(Defect("reference", "image_id", missing, True))
        elif not height or not width:
            sides = f"{image.get('height')!r:.30} x {image.get('width')!r:.30} is no size in pixels"
            defects.append(Defect("image", "height", sides, True))
        problem = file_name_defect(name)
        if problem:
            defects.append(Defect("image", "file_name", problem, True))
        if annotation is None:
            missing = f"annotation {reference['ann_id']} is not in {self.instances.name}"
            defects.append(Defect("reference", "ann_id", missing, True))
        elif height and width:
            found = to_object(annotation, height, width, numbers, self.box_tolerance_px)
            objects = [item for item in found if isinstance(item, Object)]
            defects += [item for item in found if isinstance(item, Defect)]
        expressions = tuple(sentence["sent"] for sentence in reference["sentences"])
        return Record(str(name), reference["ref_id"], height, width, tuple(objects), expressions, tuple(defects))


def find_references(path: Path) -> Path:
    """The references file, or the one beside it with the other ending.

    Raises:
        MissingDataError: there is neither.
    """
    for candidate in (path, path.with_suffix(".json"), path.with_suffix(".p")):
        if candidate.exists():
            return candidate
    raise MissingDataError(
        f"no references {path.name} or {path.with_suffix('.json').name}",
        where=path.parent,
        do="fetch refcoco, refcoco+ or refcocog from lichengunc/refer and unpack it there",
    )


def load_references(path: Path) -> list[dict[str, Any]]:
    """The list of references in a pickle or JSON file, with the fields that records need checked.

    Raises:
        UnsafeDataError: a pickle holds more than plain values.
        DataError: the file is something else, or a reference lacks a field; names its number.
    """
    if path.suffix == ".p":
        content = load_plain(path)
    else:
        with FileBytes(path) as file:
            content = [file.value(start, end) for _, start, end, _ in walk(path)]
    if not isinstance(content, list):
        raise DataError(f"holds a {type(content).__name__}, not a list of references", where=path)
    for number, reference in enumerate(content):
        problem = _reference_problem(reference)
        if problem:
            raise DataError(f"reference {number}: {problem}", where=path, do="fetch the file again")
    return [
        {
            **{field: reference[field] for field in ("ref_id", "image_id", "ann_id", "split")},
            "file_name": reference.get("file_name"),
            "sentences": [{"sent": sentence["sent"]} for sentence in reference["sentences"]],
        }
        for reference in content
    ]


def _reference_problem(reference: Any) -> str | None:
    if not isinstance(reference, dict):
        return f"is a {type(reference).__name__}, not a dictionary"
    for field in ("ref_id", "image_id", "ann_id"):
        if type(reference.get(field)) is not int:
            return f"field {field} is not a whole number"
    if not isinstance(reference.get("split"), str):
        return "field split is not text"
    sentences = reference.get("sentences")
    if not isinstance(sentences, list | tuple) or not sentences:
        return "field sentences is not a list of at least one sentence"
    if not all(isinstance(item, dict) and isinstance(item.get("sent"), str) for item in sentences):
        return "a sentence has no text 'sent'"
    return None


# ---- formats ----


class ReferOptions(Recipe):
    """What a source of distributed references may choose."""

    split: str = "train"
    """train, val, testA, testB or test, as the references name it."""


def _is_merged(glimpse: Glimpse) -> bool:
    return glimpse.has("images", "expressions") and glimpse.has("annotations", "bbox")


def _is_references(glimpse: Glimpse) -> bool:
    return glimpse.kind == "pickle" or glimpse.records_have("ref_id", "ann_id", "sentences")


def _write_merged(folder: Path) -> Written:
    images, annotations = [], []
    for scene in miniature.scenes():
        for number, expressions in scene.expressions:
            thing, entry = scene.things[number], len(images) + 1
            size = {"height": scene.height, "width": scene.width}
            name = miniature.file_name(scene)
            images.append({"id": entry, "file_name": name, **size, "expressions": list(expressions)})
            shape = {"bbox": thing.box_xywh, "segmentation": thing.segmentation, "area": thing.area, "iscrowd": 0}
            annotations.append({"id": entry, "image_id": entry, "category_id": 1, **shape})
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    miniature.write_json(folder / "expressions.json", content)
    miniature.write_pictures(folder / "images")
    return Written("expressions.json", "images")


def _write_references(folder: Path) -> Written:
    references: list[dict[str, Any]] = []
    for scene in miniature.scenes():
        for number, expressions in scene.expressions:
            ids = {"ann_id": scene.things[number].annotation_id, "image_id": scene.image_id}
            sentences = [{"sent": text} for text in expressions]
            references.append({"ref_id": len(references), **ids, "split": "train", "sentences": sentences})
    miniature.write_json(folder / "refs(unc).json", references)
    miniature.write_json(folder / "instances.json", miniature.coco())
    miniature.write_pictures(folder / "images")
    return Written(("refs(unc).json", "instances.json"), "images")


FORMATS = (
    Format(
        name="RefCOCO-COCO",
        short=("refcoco",),
        metric="bbox/P@0.5",
        title="COCO JSON with `expressions` beside each image: one image entry and one object for each reference",
        content="objects",
        tasks=("refer",),
        parser=lambda files, options: RefCoco(files[0]),
        has_masks=True,
        evaluator="refcoco",
        sniff=_is_merged,
        sample=_write_merged,
    ),
    Format(
        name="RefCOCO",
        short=("refcoco",),
        title="RefCOCO, RefCOCO+ and RefCOCOg as distributed: references beside instances.json",
        content="objects",
        tasks=("refer",),
        parser=lambda files, options: Refer(files[0], files[1], options.split),
        options=ReferOptions,
        files=("references", "instances.json"),
        also=".json",
        has_masks=True,
        sniff=_is_references,
        sample=_write_references,
    ),
)
