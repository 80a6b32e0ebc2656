"""BURST's own files (Athar et al. 2023), such as `val/all_classes.json`, in YouTube-VIS's form.

Frames are the annotated ones, `DATASET/SEQUENCE/FRAME`; boxes are those around the masks; what each video was searched
for is kept. Categories without annotations are left out.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from mmcore.data.convert.reading import add_seen, annotated_only, field, listed, put, read, track
from mmcore.errors import DataError
from mmcore.geometry import masks

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def burst(source: Path, left_out: Counter[str]) -> dict[str, Any]:
    """One file.

    Raises:
        DataError: it is not BURST's, or a mask is malformed.
    """
    content = read(source)
    made: dict[str, list[Any]] = {"videos": [], "annotations": [], "categories": []}
    for sequence in listed(content, "sequences", source):
        id_, height, width = (field(sequence, key, source) for key in ("id", "height", "width"))
        names, seen = (field(sequence, key, source) for key in ("annotated_image_paths", "segmentations"))
        if len(names) != len(seen):
            raise DataError(f"{len(seen)} frames have masks, of {len(names)}", where=f"{source}, sequence {id_}")
        folder = f"{field(sequence, 'dataset', source)}/{field(sequence, 'seq_name', source)}"
        lists = {name: sequence[name] for name in LISTS if name in sequence}
        sides = {"height": height, "width": width, "length": len(names)}
        made["videos"].append({"id": id_, **sides, "file_names": [f"{folder}/{name}" for name in names], **lists})
        categories = field(sequence, "track_category_ids", source)
        tracks = {
            number: track(0, id_, category, len(names), track_id=int(number)) for number, category in categories.items()
        }
        for frame, shapes in enumerate(seen):
            for number, shape in shapes.items():
                where = f"{source}, sequence {id_}, frame {frame}, track {number}"
                if number not in tracks:
                    raise DataError("a mask is of a track without a category", where=where)
                rle = masks.compress({"size": [height, width], "counts": field(shape, "rle", where)}, where=where)
                put(tracks[number], frame, masks.decode(rle).astype(bool))
        add_seen(made, tracks.values(), left_out)
    made["categories"] = annotated_only(listed(content, "categories", source), made["annotations"], left_out)
    return made
