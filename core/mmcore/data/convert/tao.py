"""TAO's own files (Dave et al. 2020) in YouTube-VIS's form, boxes only: `validation.json` as GLEE reads it.

Frames are those that TAO annotates, in order of `frame_index`, with their ids as `image_ids`; categories that TAO
merged into others are those; categories without annotations are left out.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from mmcore.data.convert.reading import annotated_only, field, listed, read, track
from mmcore.errors import DataError

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def tao(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """One file.

    Raises:
        DataError: it is not TAO's.
    """
    content = read(source)
    categories = listed(content, "categories", source)
    merged = {field(other, "id", source): one["id"] for one in categories for other in one.get("merged", ())}
    images: dict[Any, list[dict[str, Any]]] = {}
    for image in listed(content, "images", source):
        images.setdefault(field(image, "video_id", source), []).append(image)
    videos: list[dict[str, Any]] = []
    places: dict[Any, tuple[Any, int]] = {}
    lengths: dict[Any, int] = {}
    for video in listed(content, "videos", source):
        own = sorted(images.get(field(video, "id", source), ()), key=lambda image: field(image, "frame_index", source))
        if not own:
            left_out["videos without frames"] += 1
            continue
        lengths[video["id"]] = len(own)
        places |= {field(image, "id", source): (video["id"], frame) for frame, image in enumerate(own)}
        videos.append(
            {
                "id": video["id"],
                **{side: video.get(side) or field(own[0], side, source) for side in ("height", "width")},
                "length": len(own),
                "file_names": [field(image, "file_name", source) for image in own],
                "image_ids": [image["id"] for image in own],
                **{name: video[name] for name in LISTS if name in video},
            }
        )
    found: dict[Any, dict[str, Any]] = {}
    for one in listed(content, "annotations", source):
        if field(one, "image_id", source) not in places:
            raise DataError(f"an annotation is of image {one['image_id']}, which is not there", where=source)
        video_id, frame = places[one["image_id"]]
        category = merged.get(field(one, "category_id", source), one["category_id"])
        id_, box = field(one, "track_id", source), field(one, "bbox", source)
        entry = found.setdefault(id_, track(id_, video_id, category, lengths[video_id]))
        entry["bboxes"][frame], entry["areas"][frame] = box, box[2] * box[3]
    annotations = list(found.values())
    kept = annotated_only(categories, annotations, left_out)
    return {"videos": videos, "annotations": annotations, "categories": kept}
