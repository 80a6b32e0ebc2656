"""GLaMM's own formats by name, and what is asked about the records of every format that it reads."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from mmcore.contract.recipe import Recipe
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import Format
from mmcore.data.formats.grounded_captions import GroundedCaptions
from mmcore.data.formats.refer import ReferOptions
from mmcore.data.formats.registry import CORE
from pydantic import Field

from mmcore_glamm.data.formats.coco_regions import CocoRegions
from mmcore_glamm.data.formats.refcocog_captions import RefCocoGCaptions
from mmcore_glamm.data.formats.refer_images import ReferImages


class GrandOptions(Recipe):
    """What a source of GranD may choose."""

    split: Literal["train", "val"] = "train"
    """Which list of keys beside the LMDB is gone through; raw files have none."""


class SpanOptions(Recipe):
    """What a source of captions with phrases may choose."""

    published_spans: bool = False
    """Take spans as the released reader does, also where they overlap, lie outside or are empty."""


class PartOptions(Recipe):
    """What a source of COCO files with parts may choose."""

    box_tolerance_px: float = Field(default=2.0, ge=0)


def _spans(kind: Any, **fixed: Any) -> Any:
    return lambda files, options: kind(files[0], **fixed, checked=not options.published_spans)


def _coco(files: Any, options: Any) -> CocoInstances:
    return CocoInstances(files[0], box_tolerance_px=options.box_tolerance_px)


GRANDF, REFCOCOG_GCG, FLICKR_GCG = "GranD-f", "RefCOCOg GCG", "Flickr30k GCG"
MDETR, VISUAL_GENOME, FLICKR_REGIONS = "MDETR region captions", "Visual Genome region captions", "Flickr30k regions"
REFER_IMAGES = "RefCOCO by image"
ADE20K, COCOSTUFF, MAPILLARY = "ADE20K maps", "COCO-Stuff maps", "Mapillary maps"
PACO, PASCAL_PART = "PACO-LVIS", "PASCAL-Part"
GRAND_CAPTIONS, GRAND_REGIONS, GRAND_MASKS = "GranD captions", "GranD regions", "GranD expressions"
GCG_TRUTH, REGION_TRUTH = "GCG evaluation", "region caption evaluation"


def _format(name: str, title: str, task: str, parser: Any, **more: Any) -> Format:
    return Format(name=name, title=title, content="grounded", tasks=(task,), parser=parser, **more)


FORMATS: tuple[Format, ...] = (
    _format(
        GRANDF,
        "grounded captions of GranD-f by people, and of Open-PSG",
        "grounded_caption",
        _spans(GroundedCaptions),
        options=SpanOptions,
        has_masks=True,
    ),
    _format(
        REFCOCOG_GCG,
        "RefCOCOg's captions with the expressions in them",
        "grounded_caption",
        _spans(RefCocoGCaptions),
        options=SpanOptions,
        has_masks=True,
    ),
    _format(
        FLICKR_GCG,
        "Flickr30k's captions with SAM's masks of their entities",
        "grounded_caption",
        _spans(CocoRegions, words="span", masks=True),
        options=SpanOptions,
        has_masks=True,
    ),
    _format(
        MDETR,
        "RefCOCO, RefCOCO+ and RefCOCOg by MDETR: one box an image entry, whose caption describes it",
        "region_caption",
        lambda files, options: CocoRegions(files[0], "image"),
    ),
    _format(
        VISUAL_GENOME,
        "Visual Genome as GRiT has it: every box with its caption",
        "region_caption",
        lambda files, options: CocoRegions(files[0], "annotation"),
    ),
    _format(
        FLICKR_REGIONS,
        "Flickr30k by MDETR: boxes of the entities of a caption",
        "region_caption",
        _spans(CocoRegions, words="span"),
        options=SpanOptions,
    ),
    _format(
        REFER_IMAGES,
        "RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO as distributed, all expressions of an image together",
        "refer",
        lambda files, options: ReferImages(files[0], files[1], options.split),
        options=ReferOptions,
        files=("references", "instances.json"),
        also=".json",
        has_masks=True,
    ),
    Format(
        name=PACO,
        title="PACO-LVIS: objects and their parts, `object:part`",
        content="objects",
        tasks=("segment",),
        parser=_coco,
        options=PartOptions,
        has_masks=True,
    ),
    Format(
        name=PASCAL_PART,
        title="PASCAL-Part in COCO's form, `object:part`",
        content="objects",
        tasks=("segment",),
        parser=_coco,
        options=PartOptions,
        has_masks=True,
    ),
    *(
        _format(name, title, "segment", None, files=files, has_masks=True)
        for name, title, files in (
            (ADE20K, "ADE20K: a folder of PNG maps, class + 1", ("maps",)),
            (COCOSTUFF, "COCO-Stuff: a folder of PNG maps", ("maps",)),
            (MAPILLARY, "Mapillary Vistas 2.0: a folder of palette maps, and config_v2.0.json", ("maps", "config")),
        )
    ),
    *(
        _format(name, title, task, None, options=GrandOptions, files=("LMDB, or folder of raw JSON",))
        for name, title, task in (
            (GRAND_CAPTIONS, "GranD: short captions", "caption"),
            (GRAND_REGIONS, "GranD: expressions as descriptions of their boxes", "region_caption"),
            (GRAND_MASKS, "GranD: expressions and their masks", "refer"),
        )
    ),
    Format(
        name=GCG_TRUTH,
        title="GranD-f's evaluation: captions and masks of the pictures of one split",
        content="questions",
        tasks=("ask",),
        files=("captions", "masks"),
    ),
    Format(
        name=REGION_TRUTH,
        title="region captions to compare with: COCO's form, an annotation with box and caption under each image's id",
        content="questions",
        tasks=("ask",),
    ),
)

Manner = Literal["gcg", "segment", "parts", "refer", "region", "region_intro", "region_all", "region_group", "caption"]


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
    PASCAL_PART: Use("parts", "segment"),
    ADE20K: Use("segment", "segment"),
    COCOSTUFF: Use("segment", "segment"),
    MAPILLARY: Use("segment", "segment"),
    "COCO captions": Use("caption", "caption"),
    GRAND_CAPTIONS: Use("caption", "caption"),
}
"""Of any other format with objects and masks the manner is "segment"."""
MASKED: tuple[Manner, ...] = ("gcg", "segment", "refer", "parts")
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
