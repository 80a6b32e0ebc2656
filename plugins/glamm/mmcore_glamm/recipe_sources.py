"""The data sets of GLaMM's recipes: files as the documentation lays them out, formats, kinds.

`docs/datasets.md` of mbzuai-oryx/groundingLMM; where the released code reads another place, `OTHER_PLACES` knows it.
Rates belong to the recipes. A data set of several parts, of which the published one draws a part at random, is a source
a part here, each with its share of the rate.
"""

from collections.abc import Mapping
from typing import Any

from mmcore import Source, Validation

CAP, REG, SEG = "cap", "reg", "seg"
GCG, COCO14, COCO17, FLICKR = (
    "GranDf/annotations/train",
    "coco_2014/train2014",
    "coco_2017/train2017",
    "flikcr_30k/train",
)
SEMANTIC, MDETR, REFER = "Semantic_Segm", "RefCoco_Reg/mdetr_annotations", "Refer_Segm"
GRAND = "GranD_Data"

OTHER_PLACES: Mapping[str, tuple[str, ...]] = {
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

Entry = dict[str, Any]


def _seg(format: str, annotations: str | tuple[str, ...], images: str, **options: Any) -> Entry:
    return {"group": SEG, "format": format, "annotations": annotations, "images": images, "options": options}


def _reg(format: str, annotations: str, images: str, **options: Any) -> Entry:
    return {"group": REG, "format": format, "annotations": annotations, "images": images, "options": options}


def _cap(format: str, annotations: str, images: str) -> Entry:
    return {"group": CAP, "format": format, "annotations": annotations, "images": images}


def _refer(name: str, split_by: str, images: str, prefix: str = "refs") -> Entry:
    return _seg(
        "RefCOCO by image", (f"{REFER}/{name}/{prefix}({split_by}).p", f"{REFER}/{name}/instances.json"), images
    )


REFERRING: Mapping[str, Entry] = {
    "refcoco": _refer("refcoco", "unc", COCO14),
    "refcoco_plus": _refer("refcoco+", "unc", COCO14),
    "refcocog": _refer("refcocog", "umd", COCO14),
    "refclef": _refer("refclef", "unc", f"{REFER}/images/saiapr_tc-12"),
    "grefcoco": _refer("grefcoco", "unc", COCO14, "grefs"),
}
SEMANTICS: Mapping[str, Entry] = {
    "ade20k": _seg("ADE20K maps", f"{SEMANTIC}/ade20k/annotations/training", f"{SEMANTIC}/ade20k/images/training"),
    "cocostuff": _seg("COCO-Stuff maps", f"{SEMANTIC}/coco_stuff/train2017", COCO17),
    "pascal_part": _seg(
        "PASCAL-Part", f"{SEMANTIC}/pascal_part/train.json", f"{SEMANTIC}/pascal_part/VOCdevkit/VOC2010/JPEGImages"
    ),
    "paco_lvis": _seg("PACO-LVIS", f"{SEMANTIC}/paco_lvis/annotations/paco_lvis_v1_train.json", "coco_2017"),
    "mapillary": _seg(
        "Mapillary maps",
        (f"{SEMANTIC}/mapillary/training/v2.0/labels", f"{SEMANTIC}/mapillary/config_v2.0.json"),
        f"{SEMANTIC}/mapillary/training/images",
    ),
}
GROUNDED: Mapping[str, Entry] = {
    "refcocog_gcg": _seg("RefCOCOg GCG", f"{GCG}/RefCOCOg_GCG_train.json", COCO14),
    "psg_gcg": _seg("GranD-f", f"{GCG}/OpenPsgGCG_train.json", COCO17),
    "flickr_gcg": _seg("Flickr30k GCG", f"{GCG}/flickr_mergedGT_GCG_train.json", FLICKR),
    "grandf_gcg": _seg("GranD-f", f"{GCG}/GranDf_HA_GCG_train.json", "GranDf_HA_images/train"),
}
REGIONS: Mapping[str, Entry] = {
    "refcoco_reg": _reg("MDETR region captions", f"{MDETR}/finetune_refcoco_train.json", COCO14),
    "refcoco_plus_reg": _reg("MDETR region captions", f"{MDETR}/finetune_refcoco+_train.json", COCO14),
    "refcocog_reg": _reg("MDETR region captions", f"{MDETR}/finetune_refcocog_train.json", COCO14, intro=False),
    "visual_genome_reg": _reg("Visual Genome region captions", "visual_genome/train.json", "visual_genome/images"),
    "flickr_reg": _reg("Flickr30k regions", f"{MDETR}/final_flickr_mergedGT_train.json", FLICKR),
}
CAPTIONS: Mapping[str, Entry] = {
    "coco_captions": _cap("COCO captions", "coco_2017/annotations/captions_train2017.json", COCO17),
    "llava_instruct": _cap("LLaVA JSON", "llava_dataset/llava_instruct_150k.json", COCO17),
}
PRETRAINING: Mapping[str, Entry] = {
    "grand_captions": _cap("GranD captions", f"{GRAND}/Grand_Caption_Grounding_lmdb", f"{GRAND}/images"),
    "grand_regions": _reg("GranD regions", f"{GRAND}/Grand_Referring_Expression_lmdb", f"{GRAND}/images"),
    "grand_expressions": _seg("GranD expressions", f"{GRAND}/Grand_Referring_Expression_lmdb", f"{GRAND}/images"),
}


def sources(entries: Mapping[str, Entry], rates: Mapping[str, float]) -> dict[str, Source]:
    """The entries that have a rate, with it."""
    return {name: Source(weight=rate, **entries[name]) for name, rate in rates.items()}


def parted(entries: Mapping[str, Entry], rate: float, names: tuple[str, ...] = ()) -> dict[str, Source]:
    """A published data set of several parts: its rate, shared evenly."""
    chosen = names or tuple(entries)
    return {name: Source(weight=rate / len(chosen), **entries[name]) for name in chosen}


# ---- validation ----

FIRST = 1000
"""Samples of a validation set in training."""


def _given(entry: Entry, metrics: tuple[str, ...], annotations: str | tuple[str, ...], **options: Any) -> Validation:
    kept = {key: value for key, value in entry.items() if key not in ("group", "annotations", "options")}
    return Validation(
        **kept,
        annotations=annotations,
        metrics=metrics,
        options={**entry.get("options", {}), "first": FIRST, **options},
    )


MASKS, TEXT = ("gIoU", "cIoU"), ("ce",)
GCG_VAL = {
    "flickr_gcg_val": _given(GROUNDED["flickr_gcg"], MASKS, f"{GCG}/flickr_mergedGT_GCG_val.json"),
    "refcocog_gcg_val": _given(GROUNDED["refcocog_gcg"], MASKS, f"{GCG}/RefCOCOg_GCG_val.json"),
    "psg_gcg_val": _given(GROUNDED["psg_gcg"], MASKS, f"{GCG}/OpenPsgGCG_val.json"),
}
REFCOCOG_SEG_VAL = {
    "refcocog_seg_val": _given(REFERRING["refcocog"], MASKS, REFERRING["refcocog"]["annotations"], split="val")
}
REFCOCOG_REG_VAL = {
    "refcocog_reg_val": _given(REGIONS["refcocog_reg"], TEXT, f"{MDETR}/finetune_refcocog_val.json"),
}
VG_REG_VAL = {
    "visual_genome_reg_val": _given(REGIONS["visual_genome_reg"], TEXT, "visual_genome/test_caption.json"),
}
COCO_CAP_VAL = {
    "coco_captions_val": Validation(
        format="COCO captions",
        annotations="coco_2017/annotations/captions_val2017.json",
        images="coco_2017/val2017",
        metrics=TEXT,
        options={"first": FIRST},
    )
}

# The published protocols, hours each: asked for by `mmcore eval --on NAME`.
_TRUTH = "GranDf/annotations/val_test"
GCG_PROTOCOL = {
    f"gcg_{split}": Validation(
        format="GCG evaluation",
        annotations=(f"{_TRUTH}/{split}_gcg_coco_caption_gt.json", f"{_TRUTH}/{split}_gcg_coco_mask_gt.json"),
        images="GranDf_HA_images/val_test",
        metrics=("METEOR", "CIDEr", "AP50", "mIoU", "recall"),
        training=False,
    )
    for split in ("val", "test")
}
_SPLITS = {"refcoco": ("val", "testA", "testB"), "refcoco_plus": ("val", "testA", "testB"), "refcocog": ("val", "test")}
REFER_PROTOCOL = {
    f"{name}_{split}": Validation(
        format="RefCOCO by image",
        annotations=REFERRING[name]["annotations"],
        images=COCO14,
        metrics=("cIoU", "gIoU"),
        options={"split": split},
        training=False,
    )
    for name, splits in _SPLITS.items()
    for split in splits
}
REGION_PROTOCOL = {
    "refcocog_captions": Validation(
        format="region caption evaluation",
        annotations=f"{MDETR}/finetune_refcocog_val_captions.json",
        images=COCO14,
        metrics=("METEOR", "CIDEr"),
        training=False,
    ),
    "visual_genome_captions": Validation(
        format="region caption evaluation",
        annotations="visual_genome/test_caption.json",
        images="visual_genome/images",
        metrics=("METEOR", "CIDEr"),
        training=False,
    ),
}
