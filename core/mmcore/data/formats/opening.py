"""The index of an entry's records: the format's parser, under the entry's class names, and with what pictures say.

A file in COCO's form that gives no width and height is indexed once more with those of the pictures' headers. That
index is named by the pictures' names and sizes in bytes too, so that one that comes later, or another, is seen.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.data.formats.classes import under
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import Format
from mmcore.data.index import Index, Parser, open_index
from mmcore.data.many_files import ManyFiles
from mmcore.data.pictures import Pictures, is_there, place_at
from mmcore.data.records import Record
from mmcore.errors import DataError


def open_records(
    format: Format,
    files: Sequence[Path],
    options: Any,
    images: Callable[[], Pictures],
    cache: Path,
    classes: Mapping[str, str],
    key: str = "classes",
) -> Index:
    """The index of a format's files, built now if it does not exist.

    Args:
        format: which has a parser.
        files: as it takes them, or more, each for itself.
        options: as it takes them, typed.
        images: opens the pictures, where they are needed.
        cache: folder that holds indexes.
        classes: what classes are called.
        key: the recipe's entry of `classes`, for errors.

    Raises:
        DataError: a file is not what the format says.
    """
    assert format.parser is not None, "the format has no index"
    alone = len(files) <= len(format.files)
    parsers = [format.parsed(some, options, images) for some in ([files] if alone else [(path,) for path in files])]

    def opened(parsers: Sequence[Parser]) -> Index:
        parser = parsers[0] if len(parsers) == 1 else ManyFiles(tuple(parsers))
        return open_index(under(parser, format, classes, key), cache)

    index = opened(parsers)
    sizing = [parser for parser in parsers if isinstance(parser, CocoInstances)]
    if not sizing:
        return index
    unsized = np.flatnonzero(np.asarray(index.column("width")) * np.asarray(index.column("height")) == 0)
    try:
        place = images() if len(unsized) else None
    except DataError:  # told where pictures are looked for
        place = None
    if place is None:
        return index
    seen = _seen(index, unsized.tolist(), place)
    return opened([parser.with_pictures(place, seen) for parser in sizing])


def says_sizes(index: Index) -> bool:
    """Whether the file of an index says itself how large its pictures are, so that evaluators can read it."""
    return not index.meta.get("sized")


def _seen(index: Index, numbers: Sequence[int], images: Pictures) -> str:
    """A hash of the names of some records' pictures and of their sizes in bytes; in tars and LMDBs of names."""
    found = hashlib.blake2b(digest_size=16)
    for number in numbers:
        name = Record.from_bytes(index[number]).image
        try:
            place = place_at(images, name)
            size = place.stat().st_size if isinstance(place, Path) else int(is_there(images, name))
        except (OSError, DataError):
            size = -1
        found.update(f"{name}\0{size}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()
