"""The list of sources that Griffon is trained from: `[Task Type]_[N] & [Annotation] & [Image folder]`, one a line.

    DET_1 & coco_det.jsonl & coco/train2017
    LAZY_7 & code_instruction.json & /                   text alone has no pictures
    0.5 & scripts/datasets/pretrain.txt                  a share of everything that another list names ("balance")

`--set data.list=FILE` takes such a file as it stands. Paths are looked for below the data root, in its folder of
annotation files, and beside the list; absolute ones are taken as they are. The number behind the task tells lines
apart.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mmcore.contract.recipe import Source, Stage
from mmcore.data.places import common_root, find, relative
from mmcore.errors import DataError, MissingDataError, suggest

from mmcore_griffon.recipes import GENERAL, LINES, LOCALISATION, PROMPTED, format_of

TYPES: Mapping[str, str] = {
    "DET": LOCALISATION,
    "RANDDET": LOCALISATION,
    "REG": LOCALISATION,
    "VG": LOCALISATION,
    "VISJ": PROMPTED,
    "LAZY": GENERAL,
}
"""Task type -> the task by which batches are grouped."""
FORM = "[Task Type]_[N] & [Annotation] & [Image folder], or [Share] & [List file]"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
DO = "correct the line, or --data"


class Line(NamedTuple):
    """One source as a list names it."""

    name: str
    """The first field, which has to differ from line to line."""
    type: str
    annotation: str
    images: str
    where: str
    """File and line, for errors."""


class Share(NamedTuple):
    """A share of everything that another list names."""

    share: float
    path: str
    where: str


def read_list(path: Path) -> list[Line | Share]:
    """The lines of a file.

    Raises:
        MissingDataError: there is no such file.
        DataError: a line is none of a list; names its number and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingDataError(f"the list cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError:
        raise DataError("the list is no UTF-8 text", where=path, known=FORM) from None
    lines = [_line(line, f"{path}, line {number}") for number, line in enumerate(text.splitlines(), 1)]
    found = [line for line in lines if line is not None]
    if not found:
        raise DataError("the list names no source", where=path, known=FORM)
    seen: dict[str, str] = {}
    for line in found:
        if isinstance(line, Line):
            if line.name in seen:
                what = f"{line.name!r} stands in {seen[line.name]} already"
                raise DataError(what, where=line.where, do=f"number it anew: {line.type}_{len(found)}")
            seen[line.name] = line.where.rpartition(", ")[2]
    return found


def _line(text: str, where: str) -> Line | Share | None:
    """A line; None for one that is blank or a comment."""
    stripped = text.strip().removeprefix("\ufeff")
    if not stripped or stripped.startswith("#"):
        return None
    parts = [part.strip() for part in stripped.split("&")]
    if len(parts) == 2 and _NUMBER.fullmatch(parts[0]):
        share = float(parts[0])
        if not 0 < share <= 1:
            raise DataError(f"share {parts[0]} is not above 0 and at most 1", where=where, known=FORM)
        return Share(share, parts[1], where)
    if len(parts) != 3:
        raise DataError(f"{len(parts)} parts between `&`, not 3: {stripped!r:.80}", where=where, known=FORM)
    if not all(parts):
        empty = ("task", "annotation", "image folder")[parts.index("")]
        raise DataError(f"the {empty} is empty", where=where, known=FORM)
    kind = parts[0].partition("_")[0]
    if kind not in TYPES:
        do = suggest(kind, TYPES, "choose one of these")
        raise DataError(f"there is no task type {kind!r}", where=where, known=TYPES, do=do)
    return Line(parts[0], kind, parts[1], parts[2], where)


def sources(path: Path, root: Path, stage: Stage) -> dict[str, Source]:
    """The sources that a list names, by the first field of their lines.

    Args:
        path: of the list.
        root: of the data.
        stage: its mixture says whether sources have a group.

    Raises:
        MissingDataError: a file or folder is not there; names the line.
        DataError: a line is none of a list.
    """
    grouped = stage.data.mixture.kind == "task_length"
    found: dict[str, Source] = {}
    for line, share in _flat(path, root, None):
        name = line.name if line.name not in found else f"{Path(line.where.rpartition(', ')[0]).stem}.{line.name}"
        found[name] = _source(line, root, path.parent, share, grouped=grouped)
    return found


def _flat(path: Path, root: Path, share: float | None) -> Iterator[tuple[Line, tuple[float, str] | None]]:
    for line in read_list(path):
        if isinstance(line, Line):
            yield line, None if share is None or share == 1 else (share, str(path))
        elif share is not None:
            raise DataError("a list of lists names lists of sources alone", where=line.where, known=FORM)
        else:
            yield from _flat(find(line.path, (root, path.parent), line.where, DO), root, line.share)


def _source(line: Line, root: Path, beside: Path, share: tuple[float, str] | None, *, grouped: bool) -> Source:
    annotation = find(line.annotation, (root, root / LINES, beside), line.where, DO)
    # Text alone has no pictures; the published lists name the root of the disk then.
    images = () if line.images == "/" else (find(line.images, (root, beside), line.where, DO),)
    folder = common_root(root, annotation.parent, *images)
    return Source(
        weight=1.0,
        format=format_of(line.type),
        annotations=relative(annotation, folder),
        images=relative(images[0], folder) if images else "",
        group=TYPES[line.type] if grouped else None,
        options={} if share is None else {"share": share[0], "share_of": share[1]},
        root="" if folder == root else str(folder),
    )
