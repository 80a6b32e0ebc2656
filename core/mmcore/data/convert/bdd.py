"""BDD100K's own labels (Yu et al. 2020): boxes of single pictures and of videos, and masks painted for each frame.

boxes   a JSON list of frames (`det_20/det_train.json`), or a folder with one a video (`box_track_20/train`): objects
        with `category` and `box2d`; of a folder the ids say what is the same thing
masks   `bitmasks/VIDEO/FRAME.png` (`seg_track_20`), or `bitmasks/FRAME.png` (`ins_seg`): red is the category, green the
        attributes, of which 2 marks a crowd and 1 what is not judged, blue and alpha together the thing

Other persons, other vehicles and trailers are no categories; they become crowds of the nearest, which cost nothing.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmcore.base.progress import Count
from mmcore.data.convert.reading import field, put, read, track
from mmcore.data.images import MAX_PIXELS, read_facts
from mmcore.errors import DataError, MissingDataError

DETECTED = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("traffic light", "traffic sign"),
)
FOLLOWED = DETECTED[:8]
FORMER = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"}
NEAREST = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
SIZE = (720, 1280)
"""Height and width of every frame."""
CROWD, IGNORED = 2, 1


def boxes(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """Boxes of pictures, or of videos where `source` is a folder.

    Raises:
        DataError: it is not BDD100K's.
    """
    if source.is_dir():
        return _videos(source, left_out)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": _categories(DETECTED)}
    for number, frame in enumerate(_frames(read(source), source), 1):
        name = field(frame, "name", source)
        content["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for category, box, crowd, _ in _objects(frame, DETECTED, f"{source}, {name}", left_out):
            one = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
            content["annotations"].append({**one, "area": box[2] * box[3], "iscrowd": int(crowd)})
    return content


def painted(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """Masks of pictures, or of videos where `source` holds a folder each.

    Raises:
        MissingDataError: it holds no masks.
        DataError: a picture is not one of BDD100K's bitmasks.
    """
    folders = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    pictures = [[path] for path in sorted(source.glob("*.png"))] if not folders else []
    groups = [sorted(folder.glob("*.png")) for folder in folders] or pictures
    if not any(groups):
        raise MissingDataError("there are no bitmasks", where=source, do="give the folder `bitmasks/SPLIT`")
    owners, key = ("videos", "video_id") if folders else ("images", "image_id")
    content: dict[str, Any] = {owners: [], "annotations": [], "categories": _categories(FOLLOWED)}
    left_out["bitmasks beside folders of videos"] += len(list(source.glob("*.png"))) if folders else 0
    with Count("bitmasks", "read", quiet_s=0.5) as line:
        for number, paths in enumerate(groups, 1):
            sides = {"id": number, "height": SIZE[0], "width": SIZE[1]}
            names = [f"{path.parent.name}/{path.stem}.jpg" if folders else f"{path.stem}.jpg" for path in paths]
            own = {"length": len(paths), "file_names": names} if folders else {"file_name": names[0]}
            content[owners].append({**sides, **own})
            for entry in _things(paths, left_out):
                entry = {**entry, "id": len(content["annotations"]) + 1, key: number}
                content["annotations"].append(entry if folders else _of_picture(entry))
            line(number, len(groups))
    return content


def _videos(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": _categories(FOLLOWED)}
    paths = sorted(source.glob("*.json"))
    if not paths:
        raise MissingDataError("there is no JSON file", where=source)
    for number, path in enumerate(paths, 1):
        frames = sorted(_frames(read(path), path), key=lambda frame: field(frame, "frameIndex", path))
        names = [f"{frame.get('videoName', path.stem)}/{field(frame, 'name', path)}" for frame in frames]
        sides = {"height": SIZE[0], "width": SIZE[1], "length": len(names)}
        content["videos"].append({"id": number, **sides, "file_names": names})
        found: dict[tuple[str, bool], dict[str, Any]] = {}
        for place, frame in enumerate(frames):
            for category, box, crowd, id_ in _objects(frame, FOLLOWED, f"{path}, frame {place}", left_out):
                one = found.setdefault((id_, crowd), track(0, number, category, len(names), iscrowd=int(crowd)))
                one["bboxes"][place], one["areas"][place] = box, box[2] * box[3]
        for one in found.values():
            content["annotations"].append({**one, "id": len(content["annotations"]) + 1})
    return content


def _frames(content: Any, path: Path) -> list[dict[str, Any]]:
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise DataError("this is no list of frames", where=path, do="give Scalabel's JSON as BDD100K has it")
    return frames


def _objects(
    frame: dict[str, Any], names: tuple[str, ...], where: str, left_out: Counter[str]
) -> Iterator[tuple[int, list[float], bool, str]]:
    """Category id, box, whether it is a crowd, and id of each box of a frame; both corners belong to a box."""
    for label in frame.get("labels") or ():
        said = field(label, "category", where)
        name = FORMER.get(said, NEAREST.get(said, said))
        if label.get("box2d") is None:
            left_out["labels without a box"] += 1
            continue
        if name not in names:
            left_out[f"boxes of category {said!r:.40}"] += 1
            continue
        corners = [field(label["box2d"], side, where) for side in ("x1", "y1", "x2", "y2")]
        box = [corners[0], corners[1], corners[2] - corners[0] + 1, corners[3] - corners[1] + 1]
        attributes = label.get("attributes") or {}
        crowd = said in NEAREST or bool(attributes.get("crowd", attributes.get("Crowd", False)))
        yield names.index(name) + 1, box, crowd, str(label.get("id"))


def _things(paths: list[Path], left_out: Counter[str]) -> list[dict[str, Any]]:
    """The tracks of some bitmasks, one a thing."""
    found: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for frame, path in enumerate(paths):
        pixels = _bitmask(path)
        things = pixels[..., 2].astype(np.int64) << 8 | pixels[..., 3]
        keys = (pixels[..., 0].astype(np.int64) << 24) | (pixels[..., 1].astype(np.int64) << 16) | things
        for key in np.unique(keys[pixels[..., 0] > 0]).tolist():
            category, attributes, thing = key >> 24, key >> 16 & 0xFF, key & 0xFFFF
            if category > len(FOLLOWED):
                left_out[f"masks of category {category}"] += 1
                continue
            crowd = bool(attributes & (CROWD | IGNORED))
            entry = found.setdefault((category, thing, crowd), track(0, 0, category, len(paths), iscrowd=int(crowd)))
            put(entry, frame, keys == key)
    return list(found.values())


def _bitmask(path: Path) -> np.ndarray:
    """(height, width, 4) uint8."""
    read_facts(path, max_pixels=MAX_PIXELS)
    with Image.open(path) as image:
        if image.mode != "RGBA":
            raise DataError(f"a bitmask has four channels, not {image.mode}", where=path)
        return np.array(image)


def _of_picture(entry: dict[str, Any]) -> dict[str, Any]:
    """A track of one frame as COCO's annotation."""
    rest = {name: entry[name] for name in ("id", "image_id", "category_id", "iscrowd")}
    seen = {"bbox": entry["bboxes"][0], "segmentation": entry["segmentations"][0], "area": entry["areas"][0]}
    return {**rest, **seen}


def _categories(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]
