"""Names in published checkpoints <-> ours: GLaMM in both directions; SAM, LLaVA, language models and CLIP in.

    model.region_encoder.*                      region_encoder.*
    model.text_hidden_fcs.0.*                   seg_projection.*
    model.grounding_encoder.*                   sam.*             segment-anything's names, alone in its own file
    model.vision_tower.*, mm_projector, model.* tower, projector, language          the core's

Published folders lack the tower, which is CLIP's own; training checkpoints have it, and adapters apart.
"""

from collections.abc import Iterable, Mapping

import torch
from mmcore.language.llava import names as llava
from mmcore.language.llava.checkpoints import rotary_frequencies
from mmcore.language.llava.names import COMPUTED, TOWER, Part, llava_rules
from mmcore.vision.sam.names import CONSTANTS, STARTS, sam_rules
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_glamm.config import GlammConfig

GROUNDING, REGION, PROJECTION = "model.grounding_encoder.", "model.region_encoder.", "model.text_hidden_fcs.0."
WIDE = (GROUNDING, PROJECTION)
"""Kept in float32 in published files: the script that merged them made these parts anew."""
SECOND_NAMES = ("*.mlvl_fuse.*", "*.roi_align.*")
"""Some published folders hold the region encoder twice, under another name the second time."""
POSITION_IDS = f"{TOWER}vision_model.embeddings.position_ids"

REGION_NAMES = {
    "mlvl_fuse.input_conv.*": "input_convs.*",
    "mlvl_fuse.fuse_convs.*.conv.weight": "exchange.*.conv.weight",
    "mlvl_fuse.fuse_convs.*.gn.*": "exchange.*.norm.*",
    "roi_align.pconvs.*": "roi_convs.*",
    "roi_align.pos_embedd.*": "place.*",
    "roi_align.flatten_linear.*": "flatten.*",
    "roi_align.updims.*": "word.*",
}


def upstream(config: GlammConfig, new: tuple[str, ...] = ()) -> WeightMap:
    """The published GLaMM format.

    Args:
        config: what the model consists of.
        new: patterns of our names that a file may lack.
    """
    return WeightMap(
        rules=(
            *(Rule(f"{REGION}{a}", f"region_encoder.{b}") for a, b in REGION_NAMES.items()),
            Rule(f"{PROJECTION}*", "seg_projection.*"),
            *sam_rules(GROUNDING, iou_depth=config.sam.iou_depth),
            *llava_rules(config.tower),
        ),
        ignored=(*COMPUTED, *SECOND_NAMES),
        new=new,
        label="published GLaMM checkpoint",
    )


def whole(config: GlammConfig, names: Iterable[str]) -> WeightMap:
    """The map for a file of a whole model: one of GLaMM without the tower, or a LLaVA that GLaMM begins from.

    A file with any part of GLaMM's own has to have them all.
    """
    names = list(names)
    own = any(name.startswith((GROUNDING, REGION, PROJECTION)) for name in names)
    tower = any(name.startswith(TOWER) for name in names)
    return upstream(
        config,
        (*(() if tower else ("tower.*",)), *(() if own else ("region_encoder.*", "seg_projection.*", "sam.*"))),
    )


PARTS: Mapping[str, Part] = {
    **llava.PARTS,
    "sam": Part(label="SAM checkpoint", fills="sam", starts=STARTS, rules=tuple(sam_rules()), unused=CONSTANTS),
}
"""The files of single parts that training begins from."""


def as_published(tensors: Mapping[str, Tensor], config: GlammConfig, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What published folders hold of a whole model: no tower, the rotary frequencies, two precisions.

    Args:
        tensors: published names and values, tower included.
        config: of the model.
        dtype: of all but SAM, its projection and the frequencies; None leaves every tensor as it is.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(TOWER)}
    if dtype is not None:
        kept = {name: tensor.to(torch.float32 if name.startswith(WIDE) else dtype) for name, tensor in kept.items()}
    return kept | rotary_frequencies(config.language)
