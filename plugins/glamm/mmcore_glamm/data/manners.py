"""How records of each format become conversations, and what they point with."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from mmcore.data.formats.coco_dialects import PACO, PASCAL_PART
from mmcore.data.formats.coco_regions import FLICKR_GCG, FLICKR_REGIONS, MDETR, VISUAL_GENOME
from mmcore.data.formats.grand import GRAND_CAPTIONS, GRAND_MASKS, GRAND_REGIONS
from mmcore.data.formats.grounded_captions import GRANDF
from mmcore.data.formats.label_maps import ADE20K, COCOSTUFF, MAPILLARY
from mmcore.data.formats.refcocog_captions import REFCOCOG_GCG
from mmcore.data.formats.refer_images import REFER_IMAGES
from mmcore.data.formats.registry import CORE

Manner = Literal[
    "gcg", "segment", "parts", "named_parts", "refer", "region", "region_intro", "region_all", "region_group", "caption"
]


class Use(NamedTuple):
    """How records of a format become conversations."""

    manner: Manner
    task: str


MANNERS: Mapping[str, Use] = {
    "grounded captions": Use("gcg", "grounded_caption"),
    GRANDF: Use("gcg", "grounded_caption"),
    REFCOCOG_GCG: Use("gcg", "grounded_caption"),
    FLICKR_GCG: Use("gcg", "grounded_caption"),
    MDETR: Use("region_intro", "region_caption"),
    VISUAL_GENOME: Use("region", "region_caption"),
    "Visual Genome phrases": Use("region", "region_caption"),
    FLICKR_REGIONS: Use("region_group", "region_caption"),
    GRAND_REGIONS: Use("region_all", "region_caption"),
    REFER_IMAGES: Use("refer", "refer"),
    "RefCOCO": Use("refer", "refer"),
    "RefCOCO-COCO": Use("refer", "refer"),
    GRAND_MASKS: Use("refer", "refer"),
    PACO: Use("parts", "segment"),
    PASCAL_PART: Use("named_parts", "segment"),
    ADE20K: Use("segment", "segment"),
    COCOSTUFF: Use("segment", "segment"),
    MAPILLARY: Use("segment", "segment"),
    "COCO captions": Use("caption", "caption"),
    GRAND_CAPTIONS: Use("caption", "caption"),
}
"""Of any other format with objects and masks the manner is "segment"."""
MASKED: tuple[Manner, ...] = ("gcg", "segment", "refer", "parts", "named_parts")
"""The manners whose answers have masks."""


def points_with(sources: Iterable[str]) -> set[str]:
    """What data of some formats point with: "masks", "boxes", both or neither."""
    found = set()
    core = {one.name: one for one in CORE}
    for name in sources:
        if name in MANNERS:
            manner = MANNERS[name].manner
            found |= {"masks"} if manner in MASKED else {"boxes"} if manner != "caption" else set()
        elif name not in core or core[name].content == "objects":
            found.add("masks")
    return found
