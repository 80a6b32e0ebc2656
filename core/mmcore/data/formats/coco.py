"""COCO instances (Lin et al. 2014): images, annotations with boxes and polygons or RLE, categories.

Many data sets come in this format: COCO, Objects365, OpenImages and BDD as converted, UVO, and the RefCOCO files that
GLEE reads (`expressions` beside each image, one image entry per referred object). Records follow detectron2's reading:
images in order of their id, annotations in file order, categories numbered from 0 in order of their id, invalid
polygons dropped, and an annotation that had polygons but none valid left out.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmcore.data.formats.categories import category_names, partitions, unannotated_root
from mmcore.data.formats.coco_objects import to_object
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.formats.plain_values import clean_annotation, clean_image, whole
from mmcore.data.images import read_facts
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, Object, Record, file_name_defect, is_side
from mmcore.data.stray import uploaded
from mmcore.errors import DataError

if TYPE_CHECKING:
    from mmcore.data.pictures import Pictures


@dataclass(frozen=True, slots=True)
class CocoInstances:
    """Parser of one instances file; records are images.

    Attributes:
        path: the JSON file.
        one_object: keep only the last annotation of each image entry, as GLEE reads RefCOCO.
        expressions: image entries carry `expressions`, referring to their object.
        phrases: annotations are named in free words, by the first of these fields that they have.
        category_lists: fields of image entries that list categories, kept as they are.
        url: the field of image entries whose last two parts are folder and file name (LVIS); `file_name` otherwise.
        box_tolerance_px: how far a box may reach outside its image; one that reaches farther is cut at the border and
            counted if most of it lies inside, else it makes the record unusable.
        boxes_only: masks are not looked at.
        pictures: folder whose pictures say how large they are, where the file does not.
        pictures_seen: hash of what lies there.
    """

    path: Path
    one_object: bool = False
    expressions: bool = False
    phrases: tuple[str, ...] = ()
    category_lists: tuple[str, ...] = ()
    url: str | None = None
    box_tolerance_px: float = 2.0
    boxes_only: bool = False
    pictures: "Pictures | None" = None
    pictures_seen: str = ""

    @property
    def format(self) -> str:
        return "coco-instances/5"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "one_object": self.one_object,
            "expressions": self.expressions,
            # The second part only tells indexes from those made before annotations could do without a category.
            "phrases": [*self.phrases, "of the only category"] if self.phrases else [],
            "category_lists": list(self.category_lists),
            "url": self.url,
            "box_tolerance_px": self.box_tolerance_px,
            "boxes_only": self.boxes_only,
            **({"pictures": self.pictures_seen} if self.pictures_seen else {}),
        }

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find where each image and its annotations lie in the file; their values are decoded later, image by image."""
        count, meta = prepare_groups(self.path, folder, report)
        return Prepared(count, {**meta, "sized": True} if self.pictures is not None else meta)

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        numbers = category_numbers(folder)
        for image, annotations in groups(self.path, folder, start, stop):
            cleaned = [numbered(clean_annotation(entry), place) for place, entry in enumerate(annotations)]
            record = self._record(clean_image(image), cleaned, numbers)
            yield record.to_bytes(), record.facts()

    def with_pictures(self, folder: "Pictures", seen: str) -> Self:
        """The parser for a file that does not say how large its pictures are, which lie in this folder."""
        return replace(self, pictures=folder, pictures_seen=seen)

    def _size(self, image: dict[str, Any], defects: list[Defect]) -> tuple[tuple[int, int], list[Defect]]:
        """Height and width of a picture from its header, and the defects with what was done or is wrong."""
        from mmcore.data.pictures import picture_at  # takes a second, which files that say it need not spend

        assert self.pictures is not None
        if any(defect.field == "file_name" and defect.fatal for defect in defects):
            return (0, 0), defects
        try:
            facts = read_facts(picture_at(self.pictures, image["file_name"]))
        except DataError as error:
            problem = f"the file does not say it, and of the picture: {error.what}"
            return (0, 0), [Defect("image", "size", problem, True)]
        kept = [defect for defect in defects if defect.field not in ("height", "width")]
        said = f"the file does not say it; {facts.width}x{facts.height} as the picture's header has it"
        return (facts.height, facts.width), [*kept, Defect("image", "size", said, False)]

    def _record(self, image: dict[str, Any], annotations: list[dict[str, Any]], numbers: dict[int, int]) -> Record:
        if self.url and isinstance(address := image.get(self.url), str):
            image = {**image, "file_name": "/".join(address.split("/")[-2:])}
        defects = list(_image_defects(image))
        height, width = (image[side] if is_side(image.get(side)) else 0 for side in ("height", "width"))
        if self.pictures is not None and not (height and width):
            (height, width), defects = self._size(image, defects)
        objects, phrases = [], []
        if not height or not width:  # nothing can be said of boxes in it
            annotations = []
        for annotation in annotations[-1:] if self.one_object else annotations:
            if self.boxes_only:
                annotation = {**annotation, "segmentation": None}
            if self.phrases and len(numbers) == 1:  # the published files of phrases do not repeat it
                annotation = {"category_id": next(iter(numbers)), **annotation}
            found = to_object(annotation, height, width, numbers, self.box_tolerance_px)
            objects += [item for item in found if isinstance(item, Object)]
            defects += [item for item in found if isinstance(item, Defect)]
            if self.phrases and isinstance(found[0], Object):
                phrase = next((annotation[name] for name in self.phrases if name in annotation), None)
                phrases.append(str(phrase))
                if not isinstance(phrase, str) or not phrase.strip():
                    problem = f"{phrase!r} is no phrase; one of {', '.join(self.phrases)} should be"
                    defects.append(Defect(f"annotation {annotation['id']}", self.phrases[0], problem, True))
        expressions: tuple[str, ...] = ()
        if self.expressions:
            given = image.get("expressions")
            if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
                expressions = tuple(given)
            else:
                defects.append(Defect("image", "expressions", "not a list of at least one text", True))
        lists = {name: image[name] for name in self.category_lists if name in image}
        return Record(
            str(image.get("file_name")),
            image["id"],
            height,
            width,
            tuple(objects),
            expressions,
            tuple(defects),
            tuple(phrases),
            lists or None,
        )


def Lvis(path: Path) -> CocoInstances:  # noqa: N802 - reads like the parser that it makes
    """Parser of an LVIS v1 file (Gupta et al. 2019): images lie in the folder of their COCO split.

    Categories that are known to be absent from an image, and those of which not every object is annotated, are kept.
    """
    return CocoInstances(path, url="coco_url", category_lists=("neg_category_ids", "not_exhaustive_category_ids"))


def Phrases(path: Path) -> CocoInstances:  # noqa: N802
    """Parser of a file whose objects are named in free words, as Visual Genome and GRIT are converted for GLEE."""
    return CocoInstances(path, phrases=("caption_with_token", "object_name", "caption"))


def prepare_groups(
    path: Path, folder: Path, report: Report, *, owners: str = "images", link: str = "image_id"
) -> Prepared:
    """Find where each image or video and its annotations lie in a file, and leave the places in `folder`.

    Args:
        path: a file in COCO's form.
        folder: of the index that is built.
        report: told about progress.
        owners: what annotations belong to: "images", or "videos".
        link: field of an annotation that names its owner.

    Raises:
        DataError: ids are missing or repeated, or there is nothing in the file.
    """
    scan = _Scan(path, owners, link, report)
    owner_ids, annotation_owners = _whole(scan.image_ids), _whole(scan.annotation_images)
    by_id = np.argsort(owner_ids, kind="stable")
    ordered = owner_ids[by_id]
    _refuse_repeated(ordered, owners.removesuffix("s"), path)
    _refuse_repeated(np.sort(_whole(scan.annotation_ids)), "annotation", path)
    rows = np.searchsorted(ordered, annotation_owners)
    orphan = np.ones(len(rows), bool)
    inside = rows < len(ordered)
    orphan[inside] = ordered[rows[inside]] != annotation_owners[inside]
    rows[orphan] = len(ordered)  # behind all of them
    by_owner = np.argsort(rows, kind="stable")
    np.save(folder / "image_spans.npy", scan.image_spans[by_id])
    np.save(folder / "annotation_spans.npy", scan.annotation_spans[by_owner])
    np.save(folder / "first.npy", np.searchsorted(rows[by_owner], np.arange(len(ordered) + 1)))
    names = category_names(scan.categories, path)
    root = unannotated_root(scan.categories, scan.categories_used)
    root_name = names.pop(root, None) if root is not None else None
    (folder / "categories.json").write_text(json.dumps(list(names)))
    meta: dict[str, Any] = {
        "categories": list(names.values()),
        "category_ids": list(names),
        "num_annotations": int(len(rows) - orphan.sum()),
        "orphans": int(orphan.sum()),
    }
    if root_name is not None:
        meta["root"] = root_name
    if parts := partitions(scan.categories):
        meta["partitions"] = [parts.get(id_) for id_ in names]
    return Prepared(len(ordered), meta)


def groups(path: Path, folder: Path, start: int, stop: int) -> Iterator[tuple[Any, list[Any]]]:
    """Images or videos `start` to `stop`, each with its annotations, as the file has them."""
    owners = np.load(folder / "image_spans.npy", mmap_mode="r")[start:stop].tolist()
    first = np.load(folder / "first.npy", mmap_mode="r")[start : stop + 1].tolist()
    spans = np.load(folder / "annotation_spans.npy", mmap_mode="r")
    with FileBytes(path) as content:
        for (owner_start, owner_end), begin, end in zip(owners, first, first[1:]):
            annotations = [content.value(*span) for span in spans[begin:end].tolist()]
            yield content.value(owner_start, owner_end), annotations


def category_numbers(folder: Path) -> dict[int, int]:
    """Category id of the file -> contiguous from 0, as `prepare_groups` left them."""
    return {id_: number for number, id_ in enumerate(json.loads((folder / "categories.json").read_text()))}


class _Scan:
    """One pass over the file that keeps ids and places only.

    Args:
        path: the file.
        owners: key of what annotations belong to: "images", or "videos".
        link: field of an annotation that names its owner.
        report: told about progress.
    """

    def __init__(self, path: Path, owners: str, link: str, report: Report) -> None:
        self.image_ids, self.annotation_images, self.annotation_ids = array("q"), array("q"), array("q")
        self.categories_used: set[Any] = set()
        """As the annotations write them."""
        self._texts: dict[str, int] = {}
        categories: list[tuple[int, int]] = []
        places = {owners: array("q"), "annotations": array("q")}
        size = path.stat().st_size
        for number, (key, start, end, value) in enumerate(walk(path)):
            if key == "annotations":
                self._take(value, link, self.annotation_images, key, start, path)
                if isinstance(value, dict) and value.get("id") is None:
                    self.annotation_ids.append(self._named(f"\0{start}"))
                else:
                    self._take(value, "id", self.annotation_ids, key, start, path)
                used = value.get("category_id")
                self.categories_used.add(used if isinstance(used, int | str | float) else None)
            elif key == owners:
                self._take(value, "id", self.image_ids, key, start, path)
            elif key == "categories":
                categories.append((start, end))
                continue
            else:
                continue
            places[key].extend((start, end))
            if number % 8192 == 0:
                report(f"scanning {path.name}", end / size)
        self.categories = read_elements(path, categories)
        if not places[owners]:
            raise DataError(
                f"there are no {owners}",
                where=f"{path}, {owners}",
                do="the list is empty or missing: give the file of another split, or one in COCO's format",
            )
        self.image_spans = _whole(places[owners]).reshape(-1, 2)
        self.annotation_spans = _whole(places["annotations"]).reshape(-1, 2)

    def _take(self, value: Any, field: str, into: "array[int]", key: str, start: int, path: Path) -> None:
        given = value.get(field) if isinstance(value, dict) else None
        try:
            into.append(self._named(str(given)) if _is_name(given) else whole(given))
        except OverflowError:
            raise DataError(
                f"{field} {given!r:.60} of an element of {key} does not fit 64 bits",
                where=f"{path}, byte {start}",
                do="number them anew, from 1",
            ) from None
        except TypeError:
            raise DataError(
                f"{field} {given!r:.60} of an element of {key} is neither a whole number nor text",
                where=f"{path}, byte {start}",
                do=f"give every element of {key} a whole number or a text as {field!r}",
            ) from None

    def _named(self, text: str) -> int:
        """A number for an id that is text, below all numbers that files have, the same wherever the text stands."""
        return self._texts.setdefault(text, len(self._texts) - (1 << 62))


def numbered(annotation: Any, place: int) -> Any:
    """An annotation with an id: where the file has none, its place among those of its image."""
    if isinstance(annotation, dict) and annotation.get("id") is None:
        return {**annotation, "id": place}
    return annotation


def _is_name(given: Any) -> bool:
    """Whether an id is text that is no number: "scan-0001", a file name, a UUID."""
    return isinstance(given, str) and bool(given.strip()) and isinstance(whole(given), str)


def _whole(values: "array[int]") -> np.ndarray:
    return np.frombuffer(values, np.int64) if len(values) else np.zeros(0, np.int64)


def _refuse_repeated(ordered: np.ndarray, what: str, path: Path) -> None:
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise DataError(f"{what} id {repeated[0]} occurs more than once", where=path, do="repair the file")


def read_elements(path: Path, places: Sequence[tuple[int, int]]) -> list[Any]:
    """Some elements that `walk` came by, with their text as it is meant."""
    with FileBytes(path) as content:
        return [content.value(start, end) for start, end in places]


def _image_defects(image: dict[str, Any]) -> Iterator[Defect]:
    name = image.get("file_name")
    if places := uploaded(name) if isinstance(name, str) else ():
        yield Defect("image", "file_name", f"{name!r:.120} is looked for as {', '.join(places)}", False)
    elif problem := file_name_defect(name):
        yield Defect("image", "file_name", problem, True)
    for side in ("height", "width"):
        if not is_side(image.get(side)):
            yield Defect("image", side, f"{image.get(side)!r} is not a positive whole number of pixels", True)
