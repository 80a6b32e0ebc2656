"""Annotations under other class names: a parser around a format's own, so that everyone who reads records sees them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.contract.classes import LEFT_OUT, REST
from mmcore.data.formats.format import Format
from mmcore.data.index import COLUMN_TYPES, Parser, Prepared, Report
from mmcore.data.names import plain
from mmcore.data.records import Record
from mmcore.data.videos import VideoRecord
from mmcore.errors import RecipeError, suggest

_NUMBERS = "class_numbers.json"


@dataclass(frozen=True, slots=True)
class Renamed:
    """Parser of the same files whose classes are renamed, merged or left out.

    Attributes:
        inner: the format's own parser, of images with objects or of videos with tracks.
        classes: (name in the files, what it is called) pairs, see `mmcore.contract.classes`.
        key: the recipe's entry, for errors.
    """

    inner: Parser
    classes: tuple[tuple[str, str], ...]
    key: str = "classes"
    kind: type[Record] | type[VideoRecord] = Record
    """What the format's records are."""

    @property
    def format(self) -> str:
        return self.inner.format

    @property
    def files(self) -> tuple[Path, ...]:
        return self.inner.files

    @property
    def options(self) -> Mapping[str, Any]:
        return {**self.inner.options, "classes": [list(pair) for pair in self.classes]}

    @property
    def columns(self) -> Mapping[str, Any]:
        """Those of every parser of images with objects, and how many objects were left out of each."""
        return {**COLUMN_TYPES, "num_left_out": np.int32}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """As the format's own, with the new names.

        Raises:
            RecipeError: a class is named that the files do not have, or none is left.
        """
        count, meta = self.inner.prepare(folder, report)
        names, numbers = renamed(meta["categories"], dict(self.classes), self.key)
        first = [numbers.index(place) for place in range(len(names))]
        ids: Sequence[int] = meta["category_ids"]
        (folder / _NUMBERS).write_text(json.dumps({"numbers": numbers, "ids": list(ids)}))
        gone = [name for name, number in zip(meta["categories"], numbers, strict=True) if number < 0]
        changed = {"categories": names, "category_ids": [ids[place] for place in first], "classes_left_out": gone}
        return Prepared(count, {**meta, **changed})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        stored = json.loads((folder / _NUMBERS).read_text())
        numbers: list[int] = stored["numbers"]
        ids: list[int] = stored["ids"]
        called = {id_: ids[numbers.index(number)] for id_, number in zip(ids, numbers, strict=True) if number >= 0}
        for content, _ in self.inner.records(folder, start, stop):
            whole = self.kind.from_bytes(content)
            record = _under(whole, numbers, called)
            gone = len(whole.objects) - len(record.objects)
            yield record.to_bytes(), {**record.facts(), "num_left_out": gone}


def has_classes(format: Format) -> bool:
    """Whether the objects or tracks of a format are of named classes, which can be renamed."""
    return bool({"detect", "track"} & set(format.tasks))


def under(parser: Parser, format: Format, classes: Mapping[str, str], key: str = "classes") -> Parser:
    """The parser of a format, its classes called as `classes` says; the parser itself where it says nothing."""
    kind = VideoRecord if format.content == "videos" else Record
    return Renamed(parser, tuple(classes.items()), key, kind) if classes else parser


def renamed(categories: Sequence[str], classes: Mapping[str, str], key: str) -> tuple[list[str], list[int]]:
    """The classes that are left, and the place of every category among them, -1 for one that is left out.

    Names are compared without capitals and blanks around them. Classes stand in the order in which the map names them;
    those that it does not name come after, in the files' order.

    Raises:
        RecipeError: a class is named that the files do not have, or none is left.

    >>> renamed(["cup", "Cup ", "plate", "fork"], {"fork": "cutlery", "cup": "mug", "plate": ""}, "classes")
    (['cutlery', 'mug'], [1, 1, -1, 0])
    """
    asked = {plain(name): called for name, called in classes.items() if name != REST}
    known = {plain(name) for name in categories}
    for name in classes:
        if name != REST and plain(name) not in known:
            raise RecipeError(
                f"the annotations have no class {name!r}",
                where=key,
                known=list(categories),
                do=suggest(name, list(categories), "name one of these, or leave it out"),
            )
    rest = classes.get(REST)
    called = [asked.get(plain(name), name if rest is None else rest) for name in categories]
    order = [*(name for name in asked.values() if name in called), *called]
    places: dict[str, int] = {}
    names: list[str] = []
    for name in order:
        if name != LEFT_OUT and plain(name) not in places:
            places[plain(name)] = len(names)
            names.append(name)
    if not names:
        raise RecipeError("every class is left out", where=key, known=list(categories), do="keep one of these")
    return names, [-1 if name == LEFT_OUT else places[plain(name)] for name in called]


def _under(record: Record | VideoRecord, numbers: Sequence[int], called: Mapping[int, int]) -> Record | VideoRecord:
    """A record with its objects or tracks under their new numbers, those of classes that are left out taken away."""
    kept = [place for place, item in enumerate(record.objects) if numbers[item.category] >= 0]
    objects = tuple(record.objects[place]._replace(category=numbers[record.objects[place].category]) for place in kept)
    lists = record.category_lists
    if lists is not None:
        lists = {name: sorted({called[id_] for id_ in given if id_ in called}) for name, given in lists.items()}
    changed: dict[str, Any] = {"objects": objects, "category_lists": lists}
    if isinstance(record, Record) and record.phrases:
        changed["phrases"] = tuple(record.phrases[place] for place in kept)
    return record._replace(**changed)
