"""Videos in YouTube-VIS's form as single frames in COCO's, to learn from as images (GLEE's image_yt19, image_o, ...).

Images are numbered from 0 in the order of the file, annotations too; a frame in which a thing is not seen has no
annotation of it. Expressions of a video come with each of its frames, and what they mean is called "object": RefCOCO's
form. The published scripts give the same, but write YouTube-VIS 2021 under the name of 2019.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from mmcore.data.convert.reading import field, listed, read
from mmcore.errors import DataError


def frames(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """One file.

    Raises:
        DataError: it is not of YouTube-VIS's form.
    """
    content = read(source)
    images: list[dict[str, Any]] = []
    first: dict[Any, int] = {}
    referring = False
    for video in listed(content, "videos", source):
        first[field(video, "id", source)] = len(images)
        sides = {side: field(video, side, source) for side in ("height", "width")}
        said = {"expressions": video["expressions"]} if "expressions" in video else {}
        referring = referring or bool(said)
        for name in field(video, "file_names", source):
            images.append({"id": len(images), "file_name": name, **sides, **said})
    annotations: list[dict[str, Any]] = []
    for one in listed(content, "annotations", source):
        if field(one, "video_id", source) not in first:
            raise DataError(f"an annotation is of video {one['video_id']}, which is not there", where=source)
        start = first[one["video_id"]]
        for frame, box in enumerate(field(one, "bboxes", source)):
            shape = (one.get("segmentations") or [None] * (frame + 1))[frame]
            if not box:
                continue
            if shape is None and any(one.get("segmentations") or ()):
                left_out["boxes without the mask that their track has elsewhere"] += 1
                continue
            areas = one.get("areas") or []
            entry = {
                "id": len(annotations),
                "image_id": start + frame,
                "category_id": 1 if referring else field(one, "category_id", source),
                "bbox": box,
                "area": areas[frame] if frame < len(areas) and areas[frame] else box[2] * box[3],
                "iscrowd": one.get("iscrowd", 0),
            }
            annotations.append(entry if shape is None else {**entry, "segmentation": shape})
    categories = [{"id": 1, "name": "object"}] if referring else listed(content, "categories", source)
    return {"images": images, "annotations": annotations, "categories": categories}
