"""YOLO folders, as Ultralytics, Roboflow, CVAT and Label Studio write them: data.yaml, images and a text file for each.

    data.yaml             path: ., train: images/train, val: images/val, names: [cup, plate] or {0: cup, 1: plate}
    images/train/a.jpg    its objects in labels/train/a.txt, one a line, all numbers fractions of the image:
                          "0 0.5 0.5 0.2 0.1" (class, centre, size) or "0 0.1 0.1 0.9 0.1 0.5 0.8 ..." (class, polygon)

An image without a label file has no objects. Roboflow writes `../train/images` for a folder beside data.yaml; it is
found there. Boxes among the polygons of a set are objects without masks, and counted.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmcore.base.jsonfile import read_text
from mmcore.base.yamltext import parse_yaml
from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.rows import RowParser, Scanned, below, images_in, make_object, make_record, outline, size_of
from mmcore.data.index import Report
from mmcore.data.records import Defect, Object, Record
from mmcore.errors import DataError, MissingDataError, RecipeError
from mmcore.geometry.coordinates import convention

SNIFFED = 20
"""Label files that are looked at to tell boxes from polygons."""

BOX_AMONG = "box among polygons"
"""The field by which boxes are counted that have no masks, though the set has."""

_IMAGES = re.compile(r"(^|/)images(/|$)")


class YoloOptions(Recipe):
    """What a source of a YOLO folder may choose."""

    split: Literal["train", "val", "test"] = "train"
    """The entry of data.yaml."""


@dataclass(frozen=True)
class YoloFolder(RowParser):
    """Parser of one split; records are images, named below the folder of data.yaml."""

    path: Path
    split: str
    polygons: bool

    @property
    def format(self) -> str:
        return "yolo/3" if self.polygons else "yolo/2"

    @property
    def files(self) -> tuple[Path, ...]:
        labels = (label_of(image) for image in self._images())
        # What stands there and is no file is refused, and not taken for an image without objects.
        return (data_file(self.path), *(label for label in labels if os.path.lexists(label)))

    @property
    def options(self) -> dict[str, Any]:
        folder = data_file(self.path).parent
        names = [below(image, folder, self.path) for image in self._images()]
        return {"split": self.split, "polygons": self.polygons, "images": names}

    def scan(self, report: Report) -> Scanned:
        report(f"listing {self.split}", 0.0)
        folder = data_file(self.path).parent
        return Scanned([below(image, folder, self.path) for image in self._images()], class_names(self.path))

    def record(self, row: str, number: int, scanned: Scanned) -> Record:
        image = data_file(self.path).parent / row
        size, found = size_of(image)
        objects: list[Object | Defect] = [*found]
        label = label_of(image)
        if size != (0, 0) and label.is_file():
            for line, text in enumerate(label.read_text("utf-8-sig", errors="replace").splitlines(), 1):
                if text.strip():
                    objects.append(self._object(text.split(), line, size, len(scanned.categories)))
                    if self.polygons and len(text.split()) == 5 and isinstance(objects[-1], Object):
                        objects.append(Defect(f"label line {line}", BOX_AMONG, "a box; it has no mask", False))
        return make_record(row, number, size, objects)

    def _object(self, words: list[str], line: int, size: tuple[int, int], num_classes: int) -> Object | Defect:
        where, field = f"label line {line}", "label"
        try:
            category, numbers = float(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            return Defect(where, field, f"{' '.join(words)[:60]!r} is not a class and numbers", True)
        if category != int(category) or not 0 <= category < num_classes:
            return Defect(where, field, f"class {words[0]} is not one of the {num_classes} of data.yaml", True)
        if len(numbers) == 4:
            box = convention("cxcywh fractions").to_pixels(numbers[None], size)[0].tolist()
            return make_object(line, box, int(category), size, where=where, field=field)
        if len(numbers) < 6 or len(numbers) % 2:
            return Defect(where, field, f"{len(numbers)} numbers are neither a box (4) nor a polygon (6, 8, ...)", True)
        points = (numbers.reshape(-1, 2) * (size[1], size[0])).reshape(-1).tolist()
        shape = [points] if self.polygons else None
        return make_object(line, outline(points), int(category), size, where=where, field=field, segmentation=shape)

    def _images(self) -> list[Path]:
        return split_images(self.path, self.split)


def data_file(path: Path) -> Path:
    """data.yaml itself, where a folder that holds it may be named instead."""
    return path / "data.yaml" if path.is_dir() else path


def read_data(path: Path) -> dict[str, Any]:
    """The content of data.yaml.

    Raises:
        MissingDataError: it is not there.
        DataError: it is no mapping with `names`.
    """
    file = data_file(path)
    try:
        tree = parse_yaml(read_text(file), str(file))
    except FileNotFoundError:
        raise MissingDataError("there is no data.yaml", where=file, do="name the file as the annotations") from None
    except (OSError, ValueError, RecipeError) as error:
        raise DataError(f"data.yaml cannot be read: {error}", where=file) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("names"), list | dict):
        raise DataError("data.yaml has no names", where=file, known="names: [cup, plate], or names: {0: cup, 1: plate}")
    return tree


def class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes 0, 1, 2, ...

    Raises:
        DataError: their numbers have gaps.
    """
    names = read_data(path)["names"]
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    numbers = {
        int(number) if re.fullmatch("[0-9]{1,9}", str(number)) else -1: str(name) for number, name in names.items()
    }
    if sorted(numbers) != list(range(len(numbers))):
        raise DataError(f"names are numbered {list(names)}, not 0, 1, 2, ...", where=data_file(path))
    return tuple(numbers[number] for number in range(len(numbers)))


def split_images(path: Path, split: str) -> list[Path]:
    """The images of a split, by name, or in the order of a list file.

    Raises:
        MissingDataError: data.yaml names no such split, or its folder is not there.
    """
    tree, file = read_data(path), data_file(path)
    given = tree.get(split, tree.get("valid") if split == "val" else None)
    if not given:
        known = [key for key in ("train", "val", "test") if tree.get(key)]
        raise MissingDataError(f"data.yaml names no {split}", where=file, known=known, do="set options.split")
    found: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        place = _find(str(entry), str(tree.get("path") or ""), file)
        found += _listed(place) if place.is_file() else images_in(place)
    return found


def _find(entry: str, base: str, file: Path) -> Path:
    """A folder or list of data.yaml: below its `path`, beside the file, or where Roboflow means it."""
    entry, folder = entry.replace("\\", "/"), file.parent
    plain = re.sub(r"^(\.{1,2}/)+", "", entry)
    for candidate in (folder / base / entry, folder / entry, folder / plain):
        place = Path(candidate.absolute().as_posix())
        if place.exists() and ".." not in place.parts and place.is_relative_to(folder.absolute()):
            return place
    raise MissingDataError(
        f"{entry} is not there",
        where=file,
        do="keep the images below the folder of data.yaml, and name them from there",
    )


def _listed(path: Path) -> list[Path]:
    """The images that a text file names, one a line, below its folder."""
    try:
        lines = [line.strip().replace("\\", "/") for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"the list of images cannot be read: {error}", where=path) from None
    names = [re.sub(r"^(\./)+", "", line) for line in lines if line]
    above = _folders_above(names[0], path.parent) if names else ""
    return [path.parent / name.removeprefix(above) for name in names]


def _folders_above(name: str, folder: Path) -> str:
    """Leading folders of a listed image that the list itself lies in, as CVAT writes them (`data/images/...`); "" where
    the image is below the folder of its list as it says, or not there."""
    parts = name.split("/")
    for depth in range(len(parts)):
        if (folder / "/".join(parts[depth:])).is_file():
            return "".join(f"{part}/" for part in parts[:depth])
    return ""


def label_of(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its path becomes `labels`; else it lies beside."""
    text = image.parent.as_posix()
    places = list(_IMAGES.finditer(text))
    if places:
        start, end = places[-1].span()
        text = f"{text[:start]}{places[-1].group(1)}labels{places[-1].group(2)}{text[end:]}"
    return Path(text) / f"{image.stem}.txt"


# ---- formats ----


def _is_yolo(glimpse: Glimpse) -> bool:
    if glimpse.kind == "folder" and "data.yaml" not in glimpse.names:
        return False
    if glimpse.kind not in ("folder", "other") or (glimpse.kind == "other" and glimpse.path.suffix not in _YAML):
        return False
    try:
        tree = read_data(glimpse.path)
    except DataError:
        return False
    return any(key in tree for key in ("train", "val", "valid", "test"))


_YAML = (".yaml", ".yml")


def _has_polygons(glimpse: Glimpse) -> bool:
    """Whether one of the first label files has a polygon."""
    for split in ("train", "val", "test"):
        try:
            labels = [label_of(image) for image in split_images(glimpse.path, split)]
        except DataError:
            continue
        for label in [one for one in labels if one.is_file()][:SNIFFED]:
            if any(len(line.split()) > 5 for line in label.read_text("utf-8-sig", errors="replace").splitlines()):
                return True
    return False


def _write(folder: Path, *, polygons: bool) -> Written:
    names = miniature.kinds()
    for scene in miniature.scenes():
        image = folder / "images" / "train" / miniature.file_name(scene)
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(scene.jpeg)
        lines = []
        for thing in miniature.objects(scene):
            x, y, w, h = thing.box_xywh
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            box = [x + w / 2, y + h / 2, w, h]
            numbers = np.array(corners if polygons else box).reshape(-1, 2) / (scene.width, scene.height)
            lines.append(" ".join([str(names.index(thing.kind)), *(f"{value:.6f}" for value in numbers.reshape(-1))]))
        label = label_of(image)
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("\n".join(lines) + "\n")
    listed = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/train\nnames:\n{listed}")
    return Written("data.yaml")


def _format(name: str, title: str, *, polygons: bool) -> Format:
    return Format(
        name=name,
        title=title,
        short=("yolo",),
        content="objects",
        tasks=("detect", "segment") if polygons else ("detect",),
        parser=lambda files, options: YoloFolder(files[0], options.split, polygons),
        options=YoloOptions,
        files=("data.yaml",),
        has_masks=polygons,
        evaluator="coco",
        truth="records",
        metric="bbox/AP",
        sniff=lambda glimpse: _is_yolo(glimpse) and _has_polygons(glimpse) == polygons,
        sample=lambda folder: _write(folder, polygons=polygons),
    )


FORMATS = (
    _format("YOLO boxes", "data.yaml, images, and label files with a box a line", polygons=False),
    _format("YOLO polygons", "data.yaml, images, and label files with a polygon a line", polygons=True),
)
