"""Videos whose masks are pictures: DAVIS, YouTube-VOS, MOSE, and Ref-YouTube-VOS with its expressions.

`Annotations/VIDEO/FRAME.png` says which thing each pixel is of; 0 is nothing, 255 is not judged. Frames lie beside it,
in `JPEGImages`. All things are called "object". `meta_expressions.json` says what refers to which thing: each thing of
a video then becomes a video of its own with its expressions. Where it names no things, as that of the validation set,
each expression becomes one, without annotations.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmcore.base.progress import Count
from mmcore.data.convert.reading import field, put, read, track
from mmcore.data.images import read_map
from mmcore.errors import DataError, MissingDataError

NOT_JUDGED = 255
SUFFIXES = (".jpg", ".jpeg", ".png")


def painted(source: Path, left_out: Counter[str], *, expressions: Path | None = None) -> dict[str, Any]:
    """One split.

    Args:
        source: the folder `Annotations` (of DAVIS `Annotations/480p`), or a `meta_expressions.json` without masks.
        expressions: `meta_expressions.json`.

    Raises:
        MissingDataError: there are no masks, or no frames.
        DataError: a picture cannot be read.
    """
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    said = {} if expressions is None else field(read(expressions), "videos", expressions)
    folders = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    if not folders:
        raise MissingDataError(
            "there are no folders of masks", where=source, do="give the folder that holds one a video"
        )
    with Count("videos", "read", quiet_s=0.5) as line:
        for number, folder in enumerate(folders, 1):
            if expressions is None or folder.name in said:
                _add(content, folder, said.get(folder.name), str(expressions), left_out)
            else:
                left_out["folders of masks without expressions"] += 1
            line(number, len(folders))
    left_out["videos of expressions without masks"] += len(set(said) - {folder.name for folder in folders})
    return content


def asked(source: Path, left_out: Counter[str], *, images: Path) -> dict[str, Any]:
    """The videos of expressions that name no things, as of a validation set.

    Args:
        source: `meta_expressions.json`.
        images: the folder with one folder of frames a video.
    """
    videos: list[dict[str, Any]] = []
    for name, video in sorted(field(read(source), "videos", source).items()):
        frames = [_frame(images / name, str(frame)) for frame in field(video, "frames", f"{source}, {name}")]
        if not frames:
            left_out["videos without frames"] += 1
            continue
        with Image.open(frames[0]) as first:
            width, height = first.size
        names = [f"{name}/{frame.name}" for frame in frames]
        for _, one in sorted(field(video, "expressions", f"{source}, {name}").items(), key=lambda pair: int(pair[0])):
            sides = {"height": height, "width": width, "length": len(names)}
            text = field(one, "exp", f"{source}, {name}")
            videos.append({"id": len(videos) + 1, **sides, "file_names": names, "expressions": [text]})
    return {"videos": videos, "annotations": [], "categories": [{"id": 1, "name": "object"}]}


def _add(
    content: dict[str, Any], folder: Path, said: Mapping[str, Any] | None, where: str, left_out: Counter[str]
) -> None:
    """The things of one video: one video for all of them, or one for each that is referred to."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        left_out["folders without masks"] += 1
        return
    things: dict[int, dict[str, Any]] = {}
    size = (0, 0)
    for frame, path in enumerate(paths):
        labels = read_map(path)
        size = labels.shape
        for label in np.unique(labels[(labels != 0) & (labels != NOT_JUDGED)]).tolist():
            put(things.setdefault(label, track(0, 0, 1, len(paths))), frame, labels == label)
    frames = [f"{folder.name}/{_frame(_frames_of(folder), path.stem).name}" for path in paths]
    sides = {"height": size[0], "width": size[1], "length": len(paths), "file_names": frames}
    referred = [(None, None)] if said is None else list(_referred(said, where))
    if said is not None:
        left_out["things that no expression means"] += len(set(things) - {wanted for wanted, _ in referred})
    for wanted, texts in referred:
        own = [things[label] for label in sorted(things) if wanted in (None, label)]
        id_ = len(content["videos"]) + 1
        content["videos"].append({"id": id_, **sides, **({} if texts is None else {"expressions": list(texts)})})
        for one in own:
            number = len(content["annotations"]) + 1
            content["annotations"].append({**one, "id": number, "video_id": id_})


def _referred(said: Mapping[str, Any], where: str) -> Iterator[tuple[int | None, Sequence[str] | None]]:
    """Each thing of a video with what refers to it."""
    texts: dict[int, list[str]] = {}
    for one in field(said, "expressions", where).values():
        if "obj_id" not in one:
            raise DataError("an expression names no thing", where=where, do="mmcore data convert expressions")
        texts.setdefault(int(one["obj_id"]), []).append(field(one, "exp", where))
    yield from sorted(texts.items())


def _frames_of(folder: Path) -> Path:
    """`.../Annotations/480p/bear` -> `.../JPEGImages/480p/bear`."""
    parts = list(folder.parts)
    if "Annotations" in parts:
        place = len(parts) - 1 - parts[::-1].index("Annotations")
        parts[place] = "JPEGImages"
    return Path(*parts)


def _frame(folder: Path, stem: str) -> Path:
    """The picture of a frame, whatever its suffix."""
    for suffix in SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise MissingDataError(f"there is no frame {stem}", where=folder, do="frames lie in JPEGImages beside Annotations")
