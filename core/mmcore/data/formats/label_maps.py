"""Semantic segmentation as one PNG of class numbers a picture: ADE20K, COCO-Stuff, Mapillary Vistas.

ade20k      value 0 is nothing, else class number + 1; 150 names
cocostuff   value = class number; 182 names, those with a hyphen are not asked for, 255 is nothing
mapillary   palette PNG, value = class number; names are `labels[].readable` of config_v2.0.json in lower case
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from mmcore.contract.values import IGNORED
from mmcore.data.formats.format import Format
from mmcore.data.grounded import Grounded, Part
from mmcore.data.images import MAX_PIXELS, read_map
from mmcore.data.name_list import Names, files_in
from mmcore.errors import DataError, MissingDataError

Kind = Literal["ade20k", "cocostuff", "mapillary"]


@dataclass
class LabelMaps:
    """The maps of a folder as records; a part of a record is a class that its map has.

    Args:
        folder: of the PNG files.
        kind: whose class numbers they hold.
        config: `config_v2.0.json` (Mapillary).
        max_pixels: larger maps are refused before decoding.

    Raises:
        MissingDataError: the folder or the configuration is not there.
        DataError: there are no maps, or the configuration has no names.
    """

    folder: Path
    kind: Kind
    config: Path | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.names: Names = files_in(self.folder, ".png")
        self.classes = _mapillary(self.config) if self.config else _published(self.kind)
        self.fingerprint = f"{self.names.fingerprint}+{self.kind}"
        self._last: tuple[str, np.ndarray] = ("", np.zeros((0, 0), np.uint8))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> Grounded:
        """Record `position`: a part for every class of its map, in order of their numbers.

        Raises:
            DataError: the map is damaged, or holds a number without a name.
        """
        name = self.names[position]
        labels = self._read(name)
        found = [int(value) for value in np.unique(labels) if value != IGNORED]
        if found and found[-1] >= len(self.classes):
            raise DataError(
                f"the map holds class {found[-1]}, of {len(self.classes)}",
                where=self.folder / name,
                do=f"check that it is a map of {self.kind}",
            )
        self._last = name, labels
        parts = tuple(Part(self.classes[value], kind=value) for value in found)
        return Grounded(f"{Path(name).stem}.jpg", name, parts)

    def bitmaps(self, record: Grounded, parts: Sequence[Part], size: tuple[int, int]) -> list[np.ndarray]:
        """(height, width) uint8 mask of each part.

        Raises:
            DataError: the map has another size than the picture.
        """
        name, labels = self._last
        labels = labels if name == record.id else self._read(str(record.id))
        if labels.shape != size:
            raise DataError(
                f"the label map is {labels.shape[0]}x{labels.shape[1]}, its picture {size[0]}x{size[1]}",
                where=self.where(record),
                do="fetch both again",
            )
        return [(labels == part.kind).astype(np.uint8) for part in parts]

    def where(self, record: Grounded) -> str:
        """The map's file."""
        return str(self.folder / str(record.id))

    def _read(self, name: str) -> np.ndarray:
        labels = read_map(self.folder / name, max_pixels=self.max_pixels)
        if self.kind == "ade20k":
            return np.where(labels == 0, IGNORED, labels - 1)
        if self.kind == "cocostuff":
            unwanted = [number for number, name in enumerate(self.classes) if "-" in name]
            return np.where(np.isin(labels, unwanted), IGNORED, labels)
        return labels


def _published(kind: str) -> tuple[str, ...]:
    return tuple(json.loads((resources.files("mmcore.data.formats") / "map_classes.json").read_text("utf-8"))[kind])


def _mapillary(config: Path) -> tuple[str, ...]:
    try:
        return tuple(str(one["readable"]).lower() for one in json.loads(config.read_text("utf-8"))["labels"])
    except FileNotFoundError:
        raise MissingDataError("Mapillary's configuration is missing", where=config) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"no list of labels with `readable` names: {error!r}", where=config) from None


# ---- formats ----


ADE20K, COCOSTUFF, MAPILLARY = "ADE20K maps", "COCO-Stuff maps", "Mapillary maps"
KINDS: Mapping[str, Kind] = {ADE20K: "ade20k", COCOSTUFF: "cocostuff", MAPILLARY: "mapillary"}
FORMATS = tuple(
    Format(name=name, title=title, content="grounded", tasks=("segment",), files=files, has_masks=True)
    for name, title, files in (
        (ADE20K, "ADE20K: a folder of PNG maps, class + 1", ("maps",)),
        (COCOSTUFF, "COCO-Stuff: a folder of PNG maps", ("maps",)),
        (MAPILLARY, "Mapillary Vistas 2.0: a folder of palette maps, and config_v2.0.json", ("maps", "config")),
    )
)
"""Read by `LabelMaps`, without an index."""
