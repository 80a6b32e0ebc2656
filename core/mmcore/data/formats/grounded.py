"""Published sets whose records are images with parts that are spoken of: GranD, region captions, label maps and more.

A family that reads such records (`mmcore.data.parts.open_parts`) returns these formats from its hook
`annotation_formats`; other families are not offered what they cannot read.
"""

from mmcore.data.formats import (
    coco_dialects,
    coco_regions,
    grand,
    grounded_captions,
    label_maps,
    refcocog_captions,
    refer_images,
    truth,
)
from mmcore.data.formats.format import Format

GROUNDED: tuple[Format, ...] = (
    *grounded_captions.PUBLISHED,
    *refcocog_captions.FORMATS,
    *coco_regions.FORMATS,
    *refer_images.FORMATS,
    *coco_dialects.PARTS,
    *label_maps.FORMATS,
    *grand.FORMATS,
    *truth.FORMATS,
)
