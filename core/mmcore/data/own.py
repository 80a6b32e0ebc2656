"""Own data: one short file describes a data set once, for every family.

    name: shelves
    root: photos/                      # beside this file, or absolute; everything else lies below it or beside the file
    train: {format: coco, annotations: train.json}
    val:   {format: coco, annotations: val.json}
    tasks: [detect, segment]           # optional; default: all that the annotations can serve
    classes: {lift truck: forklift}    # optional: renamed, merged or left out; a list means these and no others
    before: true                       # optional: what the starting weights reach on val, beside what the run does

`train` and `val` may also be a list, of instances and captions for example: every family takes the files that teach
what it learns. A file without `format` is recognised by its content; without `images` its pictures are looked for at
the root and beside it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mmcore.base.yamltext import read_yaml
from mmcore.contract.classes import Classes
from mmcore.contract.recipe import Recipe, Source, Validation
from mmcore.data import stray
from mmcore.data.formats.classes import has_classes
from mmcore.data.formats.format import TASKS, Format
from mmcore.data.formats.glimpse import look
from mmcore.data.formats.opening import open_records
from mmcore.data.formats.registry import Formats
from mmcore.data.images import unsafe_reason
from mmcore.data.index import Index
from mmcore.data.names import merged
from mmcore.data.patterns import is_pattern, split_pattern
from mmcore.data.pictures import open_images
from mmcore.data.places import find, relative
from mmcore.data.tar_names import tars_in
from mmcore.errors import MissingDataError, RecipeError, UnsafeDataError, suggest


class OwnFile(Recipe):
    """One annotation file or folder of own data."""

    annotations: str | tuple[str, ...]
    format: str | None = None
    """A format's name, or its short name; None recognises it by content."""
    images: str | None = None
    """Folder below which the annotations name their pictures, a tar or a pattern of tars; None looks for it."""
    options: dict[str, Any] = Field(default={})
    """Of the format, or of a family."""
    group: str | None = None
    """Its kind or task, where it is added to a stage whose mixture goes by one."""
    classes: Classes = Field(default={})
    """What its classes are called; None takes that of the whole."""


class OwnData(Recipe):
    """An own-data file as it is written."""

    name: str
    root: str = ""
    train: tuple[OwnFile, ...]
    val: tuple[OwnFile, ...] = ()
    tasks: tuple[str, ...] = ()
    classes: Classes = Field(default={})
    before: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One file of own data, found on disk and of a known format."""

    format: Format
    root: Path
    annotations: tuple[str, ...]
    """Below `root`."""
    images: str
    options: Mapping[str, Any]
    tasks: tuple[str, ...]
    """What it is wanted for; never empty."""
    group: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    """What its classes are called; of a map for several files what it says of this one's."""

    def _entry(self) -> dict[str, Any]:
        annotations = self.annotations[0] if len(self.annotations) == 1 else self.annotations
        options = dict(self.options)
        entry = {"format": self.format.name, "annotations": annotations, "images": self.images, "options": options}
        return {**entry, "root": str(self.root), "tasks": self.tasks, "classes": dict(self.classes)}

    def count(self, cache: Path) -> str:
        """Its format, and its number of records where that is told by an index."""
        index = self.index(cache)
        return self.format.name if index is None else f"{self.format.name}, {len(index):,} records"

    def class_names(self, cache: Path) -> tuple[str, ...]:
        """The names of its classes; none where objects are called in free words, or where there are no objects."""
        named = {"objects": "detect", "videos": "track"}.get(self.format.content) in self.tasks
        index = self.index(cache) if named else None
        return merged(index.meta["categories"])[0] if index is not None else ()

    def index(self, cache: Path) -> Index | None:
        """Its index, built now if it does not exist; None of a format that has none."""
        if self.format.parser is None:
            return None
        files = tuple(self.root / name for name in self.annotations)
        known = self.format.options.model_fields
        options = {key: value for key, value in self.options.items() if key in known}
        typed = self.format.options.model_validate(options)
        what = f"the data below {self.root}"
        images = partial(open_images, self.root, self.images, what, cache)
        return open_records(self.format, files, typed, images, cache, self.classes)

    def source(self, weight: float) -> Source:
        """It as a training source of a recipe."""
        return Source(weight=weight, group=self.group, **self._entry())

    def validation(self, *, before: bool) -> Validation:
        """It as a validation set of a recipe."""
        metrics = (self.format.metric,) if self.format.metric else ()
        return Validation(metrics=metrics, before=before, **self._entry())


@dataclass(frozen=True, slots=True)
class Described:
    """Own data whose files are there."""

    path: Path
    name: str
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    before: bool


def describe(path: Path, formats: Formats) -> Described:
    """Read an own-data file and find everything that it names.

    Args:
        path: the file.
        formats: all that are known.

    Raises:
        RecipeError: a key does not exist (with the nearest one) or does not fit.
        MissingDataError: a file or folder is not there.
        UnsafeDataError: a path is absolute or climbs out; only `root` may lie anywhere.
        DataError: a format is not known, or is not recognised.
    """
    own = _parse(path)
    folder = path.absolute().parent
    root = Path(os.path.normpath(folder / Path(own.root).expanduser()))
    if not root.is_dir():
        raise MissingDataError(
            f"root {own.root!r} is no folder", where=path, do="name it beside this file, or absolute"
        )
    place = _Place(path, folder, root, formats, own.tasks, own.classes)
    train = tuple(place.part(file, "train") for file in own.train)
    val = tuple(place.part(file, "val") for file in own.val)
    return Described(path, own.name, train, val, own.before)


def _parse(path: Path) -> OwnData:
    tree = read_yaml(path)
    if not tree:
        raise RecipeError("the own-data file is empty", where=path, known=list(OwnData.model_fields))
    for split in ("train", "val"):
        tree[split] = _listed(tree.get(split, ()))
    try:
        own = OwnData.model_validate(_tuples(tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{key}: {first['msg'].lower()}, got {first['input']!r}", where=path) from None
    except RecipeError as error:
        raise RecipeError(error.what, where=path, known=error.known, do=error.do) from None
    for task in own.tasks:
        if task not in TASKS:
            raise RecipeError(f"no task {task!r}", where=f"{path}, tasks", known=TASKS, do=suggest(task, TASKS, ""))
    if not own.train or not own.name:
        raise RecipeError("the own-data file needs a name and train", where=path, do="see docs/own-data.md")
    return own


def _listed(value: Any) -> list[Any]:
    """One file or several, each as a mapping; a text alone names the annotations."""
    several = value if isinstance(value, list | tuple) else [value]
    return [{"annotations": one} if isinstance(one, str) else one for one in several if one is not None]


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


class _Place:
    """Where the files of one own-data file are looked for."""

    def __init__(
        self, path: Path, folder: Path, root: Path, formats: Formats, tasks: Sequence[str], classes: Mapping[str, str]
    ) -> None:
        self.path, self.folder, self.root, self.formats, self.tasks = path, folder, root, formats, tasks
        self.classes = classes

    def part(self, file: OwnFile, split: str) -> Part:
        """One of its files."""
        where = f"{self.path}, {split}"
        given = (file.annotations,) if isinstance(file.annotations, str) else file.annotations
        found = tuple(self._find(name, f"{where}.annotations") for name in given)
        format = self._format(file.format, found[0], where)
        images = self._images(found[0]) if file.images is None else self._find(file.images, f"{where}.images")
        tasks = format.serves(self.tasks) if self.tasks else format.tasks
        root = self.root
        if not all(path.is_relative_to(root) for path in (*found, images)):
            root = Path(os.path.commonpath([self.root, self.folder]))
        annotations = tuple(relative(path, root) for path in found)
        options = dict(file.options)
        if "split" in format.options.model_fields:  # of formats whose one file describes both
            options.setdefault("split", self._split(format, found, split))
        classes = (file.classes or self.classes) if has_classes(format) else {}
        return Part(format, root, annotations, relative(images, root), options, tasks, file.group, dict(classes))

    def _split(self, format: Format, files: Sequence[Path], split: str) -> str | None:
        """The split that `train` or `val` means; None where the format's files do not have that one."""
        if not format.name.startswith("Pascal VOC"):
            return split
        listed = files[0] / "ImageSets" / "Main" / f"{split}.txt"
        return split if listed.is_file() else None

    def _find(self, name: str, where: str) -> Path:
        if name in ("", "."):
            return self.root
        if is_pattern(name) and not unsafe_reason(name):
            head, pattern = split_pattern(name)
            return self._find(head, where) / pattern
        if stray.is_absolute(name):
            inside = (stray.inside(place, name) for place in (self.root, self.folder))
            name = next((one for one in inside if one), name)
        reason = unsafe_reason(name)
        if reason:
            raise UnsafeDataError(
                f"path {name!r} {reason}", where=where, do="name the folder that holds it as `root` of this file"
            )
        return find(name, (self.root, self.folder), where, "correct the path or `root`")

    def _format(self, name: str | None, annotations: Path, where: str) -> Format:
        short = [format.name for format in self.formats.values() if name is not None and name.lower() in format.short]
        if name is None or len(short) > 1:
            return self.formats.recognise(annotations, among=short or None)
        return self.formats.named(short[0] if short else name, where)

    def _images(self, annotations: Path) -> Path:
        """The folder that holds the first picture which the annotations name."""
        beside = annotations if annotations.is_dir() and annotations.name != "Annotations" else annotations.parent
        named = first_picture(annotations)
        split = annotations.stem.rpartition("_")[2]  # instances_train2017.json, instances_default.json
        below = ("", "images", f"images/{split}", split, "data", "JPEGImages")  # COCO, CVAT, FiftyOne, labelme's VOC
        places = dict.fromkeys((self.root, beside, beside.parent))
        folders = [place / name for place in places for name in below if self._is_inside(place / name)]
        if named is None:
            return beside
        for folder in folders:
            if (folder / named).is_file():
                return folder
        return next((folder for folder in folders if tars_in(folder)), self.root)

    def _is_inside(self, folder: Path) -> bool:
        return folder.is_relative_to(self.root) or folder.is_relative_to(self.folder)


def first_picture(annotations: Path) -> str | None:
    """The file name of the first picture that a JSON file of annotations names, None where none is found."""
    if annotations.is_dir():
        return None
    glimpse = look(annotations)
    element = glimpse.parts.get("images", glimpse.first)
    if not isinstance(element, dict):
        return None
    for key in ("file_name", "image", "images", "filename"):
        value = element.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, str):
            continue
        name = value.replace("\\", "/")
        if places := stray.uploaded(name):
            return places[-1]
        if stray.is_absolute(name) or not unsafe_reason(name):
            return name
    return None
