"""The dialects of COCO's instances files as formats: how each is recognised, read, and written small for a test.

The parser is `mmcore.data.formats.coco`; here stands what a recipe may name and choose.
"""

from pathlib import Path

from pydantic import Field

from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.coco import CocoInstances, Lvis, Phrases
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse


def _is_coco(glimpse: Glimpse) -> bool:
    return {"images", "annotations", "categories"} <= glimpse.parts.keys() and _has_places(glimpse)


def _has_places(glimpse: Glimpse) -> bool:
    return glimpse.has("annotations", "bbox") or glimpse.has("annotations", "segmentation")


def _has_masks(glimpse: Glimpse) -> bool:
    return bool(glimpse.parts.get("annotations", {}).get("segmentation"))


def _write(folder: Path, *, masks: bool = True) -> Written:
    miniature.write_pictures(folder / "images")
    miniature.write_json(folder / "annotations.json", miniature.coco(masks=masks))
    return Written("annotations.json", "images")


def _write_lvis(folder: Path) -> Written:
    content = miniature.coco()
    miniature.write_pictures(folder / "coco" / "val2017")
    for image in content["images"]:
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.cocodataset.org/val2017/{name}"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in content["categories"]:
        category["frequency"] = "f"
    miniature.write_json(folder / "lvis.json", content)
    return Written("lvis.json", "coco")


def _write_phrases(folder: Path) -> Written:
    content = miniature.coco(masks=False)
    miniature.write_pictures(folder / "images")
    names = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        annotation |= {"caption": f"a {names[annotation['category_id']]}", "category_id": 1}
    content["categories"] = [{"id": 1, "name": "object"}]
    miniature.write_json(folder / "phrases.json", content)
    return Written("phrases.json", "images")


class CocoOptions(Recipe):
    """What a source of COCO files may choose."""

    box_tolerance_px: float = Field(default=2.0, ge=0)
    """How far a box may reach outside its image as it is; farther, it is cut at the border and counted."""


FORMATS = (
    Format(
        name="COCO instances",
        short=("coco",),
        metric="bbox/AP",
        title="COCO JSON with boxes and masks as polygons or RLE; crowds",
        content="objects",
        tasks=("detect", "segment"),
        parser=lambda files, options: CocoInstances(files[0], box_tolerance_px=options.box_tolerance_px),
        options=CocoOptions,
        has_masks=True,
        evaluator="coco",
        sniff=lambda glimpse: _is_coco(glimpse) and _has_masks(glimpse),
        sample=_write,
    ),
    Format(
        name="COCO boxes",
        short=("coco",),
        metric="bbox/AP",
        title="COCO JSON of which only the boxes count: Objects365, OpenImages, BDD100K as converted",
        content="objects",
        tasks=("detect",),
        parser=lambda files, options: CocoInstances(
            files[0], box_tolerance_px=options.box_tolerance_px, boxes_only=True
        ),
        options=CocoOptions,
        evaluator="coco",
        sniff=lambda glimpse: _is_coco(glimpse) and not _has_masks(glimpse),
        sample=lambda folder: _write(folder, masks=False),
    ),
    Format(
        name="LVIS v1",
        short=("lvis",),
        metric="bbox/AP",
        title="COCO JSON with the categories that an image surely lacks; images by `coco_url`",
        content="objects",
        tasks=("detect", "segment"),
        parser=lambda files, options: Lvis(files[0]),
        has_masks=True,
        evaluator="lvis",
        sniff=lambda glimpse: _is_coco(glimpse) and glimpse.has("images", "neg_category_ids"),
        sample=_write_lvis,
    ),
    Format(
        name="Visual Genome phrases",
        short=("phrases",),
        title="COCO JSON whose objects are named in free words, as Visual Genome and GRIT are converted",
        content="objects",
        tasks=("ground", "region_caption"),
        parser=lambda files, options: Phrases(files[0]),
        sniff=lambda glimpse: (
            _is_coco(glimpse) and any(glimpse.has("annotations", name) for name in Phrases(glimpse.path).phrases)
        ),
        sample=_write_phrases,
    ),
)
"""Every dialect of COCO's instances files; a file that is of several is of the last of them."""

PACO, PASCAL_PART = "PACO-LVIS", "PASCAL-Part"
PARTS = tuple(
    Format(
        name=name,
        title=title,
        content="objects",
        tasks=("segment",),
        parser=lambda files, options: CocoInstances(files[0], box_tolerance_px=options.box_tolerance_px),
        options=CocoOptions,
        has_masks=True,
    )
    for name, title in (
        (PACO, "PACO-LVIS: objects and their parts, `object:part`"),
        (PASCAL_PART, "PASCAL-Part in COCO's form, `object:part`"),
    )
)
"""Sets whose categories are parts of objects; COCO's files otherwise."""
