"""MOTChallenge's sequences (`SEQUENCE/gt/gt.txt`, `seqinfo.ini`) in YouTube-VIS's form: boxes with identities.

Rows count where their seventh number is not 0; of those with classes, pedestrians alone (class 1). Boxes are cut off at
the border of the picture. File names are relative to SOURCE.
"""

import configparser
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmcore.data.convert.reading import track
from mmcore.errors import DataError, MissingDataError

PEDESTRIAN = 1


def mot(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """A folder of sequences.

    Raises:
        MissingDataError: it holds none.
        DataError: a row is malformed.
    """
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for path in sorted(source.glob("*/gt/gt.txt")):
        _add(content, path.parents[1], left_out)
    if not content["videos"]:
        raise MissingDataError("there is no SEQUENCE/gt/gt.txt", where=source, do="give the folder of the sequences")
    return content


def _add(content: dict[str, Any], folder: Path, left_out: Counter[str]) -> None:
    width, height, length, place, suffix = _told(folder / "seqinfo.ini")
    names = [f"{folder.name}/{place}/{frame:06d}{suffix}" for frame in range(1, length + 1)]
    id_ = len(content["videos"]) + 1
    content["videos"].append({"id": id_, "width": width, "height": height, "length": length, "file_names": names})
    found: dict[int, dict[str, Any]] = {}
    for number, frame, identity, (x, y, right, bottom) in _rows(folder / "gt/gt.txt", left_out):
        if not 1 <= frame <= length:
            raise DataError(f"frame {frame} of {length}", where=f"{folder}/gt/gt.txt, line {number}")
        left, top = max(0.0, x), max(0.0, y)
        box = [left, top, min(right, width) - left, min(bottom, height) - top]
        if min(box[2:]) > 0:
            entry = found.setdefault(identity, track(0, id_, 1, length, mot_track_id=identity))
            entry["bboxes"][frame - 1], entry["areas"][frame - 1] = box, box[2] * box[3]
        else:
            left_out["boxes outside the picture"] += 1
    for identity in sorted(found):
        content["annotations"].append({**found[identity], "id": len(content["annotations"]) + 1})


def _told(path: Path) -> tuple[int, int, int, str, str]:
    """Width, height, number of frames, folder of the frames and their suffix."""
    told = configparser.ConfigParser(interpolation=None)
    try:
        told.read_string(_text(path))
        info = told["Sequence"]
        sides = [info.getint(key) for key in ("imWidth", "imHeight", "seqLength")]
    except KeyError:
        raise DataError("there is no section [Sequence]", where=path, do="give it as MOTChallenge has it") from None
    except (configparser.Error, ValueError) as error:
        raise DataError(str(error), where=path, do="give it as MOTChallenge has it") from None
    width, height, length = (side or 0 for side in sides)
    if min(width, height, length) < 1:
        raise DataError("imWidth, imHeight and seqLength must be given", where=path)
    return width, height, length, info.get("imDir", "img1"), info.get("imExt", ".jpg")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingDataError("there is no such file", where=path, do="give it as MOTChallenge has it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read: {error}", where=path) from None


def _rows(path: Path, left_out: Counter[str]) -> Iterator[tuple[int, int, int, tuple[float, float, float, float]]]:
    """Line, frame, identity and corners of each row that counts."""
    seen: set[tuple[float, float]] = set()
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(part) for part in line.split(",")]
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            raise DataError(f"{line!r:.60} is no row of numbers", where=f"{path}, line {number}")
        if len(values) < 6:
            raise DataError(f"{len(values)} numbers, at least 6 are needed", where=f"{path}, line {number}")
        if len(values) > 6 and values[6] == 0:
            left_out["rows that do not count"] += 1
        elif len(values) > 7 and values[7] != PEDESTRIAN:
            left_out["rows of other classes"] += 1
        elif (values[0], values[1]) in seen:
            raise DataError(f"a second box of {values[1]:g} in frame {values[0]:g}", where=f"{path}, line {number}")
        else:
            seen.add((values[0], values[1]))
            x, y, width, height = values[2:6]
            yield number, int(values[0]), int(values[1]), (x, y, x + width, y + height)
