"""MOTChallenge's sequences (`SEQUENCE/gt/gt.txt`, `seqinfo.ini`) in YouTube-VIS's form: boxes with identities.

Rows count where their seventh number is not 0; of those with classes, pedestrians alone (class 1). Boxes are cut off at
the border of the picture. File names are relative to SOURCE.
"""

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmcore.data.convert.reading import track
from mmcore.errors import DataError, MissingDataError

PEDESTRIAN = 1


def mot(source: Path) -> dict[str, Any]:
    """A folder of sequences.

    Raises:
        MissingDataError: it holds none.
        DataError: a row is malformed.
    """
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for path in sorted(source.glob("*/gt/gt.txt")):
        _add(content, path.parents[1])
    if not content["videos"]:
        raise MissingDataError("there is no SEQUENCE/gt/gt.txt", where=source, do="give the folder of the sequences")
    return content


def _add(content: dict[str, Any], folder: Path) -> None:
    told = configparser.ConfigParser()
    told.read(folder / "seqinfo.ini")
    if not told.has_section("Sequence"):
        raise MissingDataError("there is no section Sequence", where=folder / "seqinfo.ini")
    info = told["Sequence"]
    try:
        width, height, length = (info.getint(key, -1) for key in ("imWidth", "imHeight", "seqLength"))
    except ValueError as error:
        raise DataError(str(error), where=folder / "seqinfo.ini") from None
    place, suffix = info.get("imDir", "img1"), info.get("imExt", ".jpg")
    names = [f"{folder.name}/{place}/{frame:06d}{suffix}" for frame in range(1, length + 1)]
    id_ = len(content["videos"]) + 1
    content["videos"].append({"id": id_, "width": width, "height": height, "length": length, "file_names": names})
    found: dict[int, dict[str, Any]] = {}
    for number, frame, identity, (x, y, right, bottom) in _rows(folder / "gt/gt.txt"):
        if not 1 <= frame <= length:
            raise DataError(f"frame {frame} of {length}", where=f"{folder}/gt/gt.txt, line {number}")
        left, top = max(0.0, x), max(0.0, y)
        box = [left, top, min(right, width) - left, min(bottom, height) - top]
        if min(box[2:]) > 0:
            entry = found.setdefault(identity, track(0, id_, 1, length, mot_track_id=identity))
            entry["bboxes"][frame - 1], entry["areas"][frame - 1] = box, box[2] * box[3]
    for identity in sorted(found):
        content["annotations"].append({**found[identity], "id": len(content["annotations"]) + 1})


def _rows(path: Path) -> Iterator[tuple[int, int, int, tuple[float, float, float, float]]]:
    """Line, frame, identity and corners of each row that counts."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        parts = line.split(",")
        try:
            values = [float(part) for part in parts]
        except ValueError:
            raise DataError(f"{line!r:.60} is no row of numbers", where=f"{path}, line {number}") from None
        if len(values) < 6:
            raise DataError(f"{len(values)} numbers, at least 6 are needed", where=f"{path}, line {number}")
        counts = len(values) < 7 or values[6] != 0
        if counts and (len(values) < 8 or values[7] == PEDESTRIAN):
            x, y, width, height = values[2:6]
            yield number, int(values[0]), int(values[1]), (x, y, x + width, y + height)
