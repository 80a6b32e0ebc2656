"""GranD: captions and referring expressions of SA-1B pictures, from the published LMDBs or from the raw JSON files.

    Grand_Caption_Grounding_lmdb       key image name -> {name: [{"caption": ..., "details": [...]}, ...]}
    Grand_Referring_Expression_lmdb    key image name -> {name: [{"attribute", "id", "bbox" xyxy, "segmentation"}, ...]}
    a folder of raw JSON files         {name: {"objects": [...], "short_captions": [...], ...}}, one file a picture

Raw files are converted as the published scripts do: a caption of each short caption; an expression of each attribute
that names a label of its object, or of the first attribute where none does, a leading "Assistant:" taken away.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmcore.contract.recipe import Recipe
from mmcore.data.formats.format import Format
from mmcore.data.formats.plain_values import clean_segmentation
from mmcore.data.grounded import Grounded, Part
from mmcore.data.lmdb_store import Store
from mmcore.data.name_list import Names, files_in, lines_of
from mmcore.data.records import file_name_defect
from mmcore.errors import DataError, MissingDataError

Task = Literal["caption", "expression"]
_SPOKEN = (re.compile(r"(?i)\bAssistant:?\s*"), re.compile(r"(?i)\bistant:?\s*"))


class Grand:
    """The pictures of one LMDB, or of a folder of raw JSON files.

    Args:
        folder: of the LMDB, or of the files.
        task: what is read: captions, each a part without a place, or expressions with boxes and masks.
        split: "train" or "val": which of the lists beside `data.mdb` is gone through.
        first: no more than so many pictures.

    Raises:
        MissingDataError: the folder is not there, or neither an LMDB nor JSON files are in it.
        DataError: the LMDB is damaged.
        PluginError: the package lmdb is not installed.
    """

    def __init__(self, folder: Path, task: Task, split: str = "train", first: int | None = None) -> None:
        self.folder, self.task = Path(folder), task
        if not self.folder.is_dir():
            raise MissingDataError("GranD's folder is missing", where=folder, do="check the data root")
        raw = not (self.folder / "data.mdb").exists() and any(self.folder.glob("*.json"))
        self.store = None if raw else Store(self.folder)
        listed = self.folder / f"{self.folder.name}_{split.capitalize()}.txt"
        if self.store is None:
            names = files_in(self.folder, ".json")
        elif listed.exists():
            names = lines_of(listed)
        else:
            names = Names(self.store.keys(), self.folder)
        self.names = Names((names[n] for n in range(min(first, len(names)))), names.origin) if first else names
        self.fingerprint = f"{self.names.fingerprint}+{task}+{split}"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> Grounded:
        """The picture at `position` with its captions or expressions as parts.

        Raises:
            DataError: its value is missing or damaged; names file, picture and field.
        """
        name = self.names[position]
        where = str(self.folder / name if self.store is None else self.folder)
        image, value = self._value(name, where)
        if problem := file_name_defect(image):
            raise DataError(problem, where=f"{where}, {name}")
        entries = value
        if isinstance(value, dict):
            # Files from before the last level of the pipeline have their captions as plain texts.
            captions = value.get("short_captions") or [{"caption": text} for text in value.get("captions") or ()]
            entries = captions if self.task == "caption" else expressions(value.get("objects"))
        if not isinstance(entries, list):
            raise DataError(f"the picture has no list of {self.task}s", where=f"{where}, {name}")
        make = _caption if self.task == "caption" else _expression
        return Grounded(image, image, tuple(part for entry in entries if (part := make(entry, f"{where}, {name}"))))

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """(height, width) uint8 mask of each part.

        Raises:
            DataError: one has none: files of the pipeline's early levels have boxes alone.
        """
        if lacking := [part.text for part in parts if not part.objects]:
            raise DataError(
                f"expression {lacking[0]!r:.60} has a box and no segmentation",
                where=self.where(record),
                do="take the format GranD regions, or files of a later level of the pipeline",
            )
        return [part.bitmap(size, self.where(record)) for part in parts]

    def where(self, record: Grounded) -> str:
        """The folder and the picture."""
        return f"{self.folder}, {record.image}"

    def _value(self, name: str, where: str) -> tuple[str, Any]:
        """The picture's file name and what is said about it."""
        try:
            content = (self.folder / name).read_bytes() if self.store is None else self.store.get(name)
            value = json.loads(content)
        except ValueError as error:
            raise DataError(f"not valid JSON: {error}", where=f"{where}, {name}") from None
        if not isinstance(value, dict) or not value:
            raise DataError("the value is not {picture: ...}", where=f"{where}, {name}")
        image = name if name in value else next(iter(value))
        return image, value[image]


def expressions(objects: Any) -> list[dict[str, Any]]:
    """The referring expressions of a raw file's objects."""
    found: list[dict[str, Any]] = []
    for item in objects if isinstance(objects, list) else ():
        given = item.get("attributes")
        spoken = [_without_speaker(text) for text in ([given] if isinstance(given, str) else given or ())]
        labels = [label.replace("_", " ") for label in item.get("labels") or ()]
        naming = [text for text in spoken if any(label in text for label in labels)]
        chosen = spoken if len(spoken) == 1 else naming or spoken[:1]
        kept = {key: item.get(key) for key in ("id", "bbox", "segmentation")}
        found += [{"attribute": text, **kept} for text in chosen]
    return found


def _without_speaker(text: str) -> str:
    for pattern in _SPOKEN:
        text = pattern.sub("", text)
    return text


def _caption(entry: Any, where: str) -> Part | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
        raise DataError("an entry has no caption", where=f"{where}, field caption")
    return Part(entry["caption"])


def _expression(entry: Any, where: str) -> Part | None:
    """An expression with the box and mask it has; None for one without either."""
    if not isinstance(entry, dict) or not isinstance(entry.get("attribute"), str):
        raise DataError("an entry has no attribute", where=f"{where}, field attribute")
    box, shape = entry.get("bbox"), clean_segmentation(entry.get("segmentation"))
    if not box and not shape:
        return None
    if box and not (isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)):
        raise DataError(f"box {box!r:.60} is not four numbers", where=f"{where}, field bbox")
    shapes = (tuple(shape) if isinstance(shape, list) else (shape,)) if shape else ()
    return Part(entry["attribute"], tuple(float(v) for v in box) if box else None, (shapes,) if shapes else ())  # type: ignore[arg-type]


# ---- formats ----


class GrandOptions(Recipe):
    """What a source of GranD may choose."""

    split: Literal["train", "val"] = "train"
    """Which list of keys beside the LMDB is gone through; raw files have none."""


GRAND_CAPTIONS, GRAND_REGIONS, GRAND_MASKS = "GranD captions", "GranD regions", "GranD expressions"
FORMATS = tuple(
    Format(
        name=name,
        title=title,
        content="grounded",
        tasks=(task,),
        options=GrandOptions,
        files=("LMDB, or folder of raw JSON",),
        has_masks=task == "refer",
    )
    for name, title, task in (
        (GRAND_CAPTIONS, "GranD: short captions", "caption"),
        (GRAND_REGIONS, "GranD: expressions as descriptions of their boxes", "region_caption"),
        (GRAND_MASKS, "GranD: expressions and their masks", "refer"),
    )
)
"""Read by `Grand`, without an index."""
