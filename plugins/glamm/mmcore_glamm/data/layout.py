"""Where GLaMM's data lie: the layout of the documentation, and the folders that the released code really reads.

The recipes name the documented one. Where a path is not there but one of its other places is, that one is taken.
"""

from pathlib import Path
from typing import TypeVar

from mmcore.contract.recipe import Source, Validation

OTHER_PLACES: dict[str, tuple[str, ...]] = {
    # Open-PSG, RefCOCOg and Flickr30k pictures are read relative to the working directory, which is the data root here
    "GranDf_HA_images": ("GranDf/GranDf_HA_images",),
    "coco_2014/train2014": ("Refer_Segm/coco_2014/train2014", "RefCoco_Reg/coco_2014"),
    "flikcr_30k/train": ("flikcr_30k/flickr30k-images", "flickr_30k/train", "flickr_30k/flickr30k-images"),
    "RefCoco_Reg/mdetr_annotations/final_flickr_mergedGT_train.json": (
        "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_train.json",
    ),
    "Semantic_Segm/coco_stuff": ("Semantic_Segm/cocostuff", "coco_stuff", "cocostuff"),
    "Semantic_Segm/mapillary": ("mapillary",),
    "Semantic_Segm/paco_lvis": ("paco_lvis",),
    "Semantic_Segm/pascal_part": ("pascal_part",),
    "Semantic_Segm/ade20k": ("ade20k",),
    "coco_2017": ("coco2017",),
}
"""Documented path -> other places of the same: what the code reads, what the documents' trees show elsewhere."""

Entry = TypeVar("Entry", bound=Source | Validation)


def placed(entry: Entry, root: Path) -> Entry:
    """The entry with those of its paths that lie in another known place."""
    if entry.root:
        return entry
    given = entry.annotations
    annotations = _found(given, root) if isinstance(given, str) else tuple(_found(one, root) for one in given)
    return entry.replace(annotations=annotations, images=_found(entry.images, root))


def _found(path: str, root: Path) -> str:
    if not path or (root / path).exists():
        return path
    for documented, others in OTHER_PLACES.items():
        if path == documented or path.startswith(documented + "/"):
            for other in others:
                elsewhere = other + path[len(documented) :]
                if (root / elsewhere).exists():
                    return elsewhere
    return path
