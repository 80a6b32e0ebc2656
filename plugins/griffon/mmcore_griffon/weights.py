"""Names in published checkpoints <-> ours: Griffon in both directions; language models and CLIP towers in.

    model.vision_tower.vision_tower.vision_model.*   tower.*
    model.mm_projector.*                             projector.*
    model.prompt_visual_encoder.vision_model.*       region.encoder.*
    model.prompt_projector.*                         region.projector.*
    model.*, lm_head                                 language.*

Positions learned at another resolution are resized when they are read, so that no folder has to be converted first
(upstream: `tools/resize_clip_pos.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mmcore.language.llava import names as llava
from mmcore.language.llava.names import COMPUTED, TOWER, Part
from mmcore.language.published import EMBEDDING, OUTPUT, language_rules
from mmcore.vision.clip_vit import clip_rules
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_griffon.config import GriffonConfig

ENCODER, PROMPT = "model.prompt_visual_encoder.vision_model.", "model.prompt_projector."
LEFT_OUT = {"region.*": (ENCODER, PROMPT), "tower.*": (TOWER,)}
"""What a published file may lack: older ones the region tokenizer, Griffon v1's perhaps the tower, which was frozen."""
POSITIONS = "vision_model.embeddings.position_embedding.weight"
"""In a file of a CLIP tower alone."""


def parts(config: GriffonConfig, tensors: Mapping[str, Tensor]) -> Mapping[str, Part]:
    """The files of single parts that this family starts from; there are two towers that a CLIP file may be.

    Args:
        config: of the model.
        tensors: of the file. With as many positions as the region tokenizer's encoder it is that one's, else the main
            tower's, enlarged while it is read.
    """
    clip, region = llava.PARTS["clip"], config.region_tower
    main = replace(clip, rules=tuple(clip_rules("vision_model.", "tower.", grid=config.tower.grid)))
    if region is None or POSITIONS not in tensors or len(tensors[POSITIONS]) != region.grid**2 + 1:
        return {**llava.PARTS, "clip": main}
    encoder = replace(
        clip,
        label="CLIP encoder of visual prompts",
        fills="region.encoder",
        rules=tuple(clip_rules("vision_model.", "region.encoder.")),
    )
    return {**llava.PARTS, "clip": encoder}


def upstream(config: GriffonConfig, present: Iterable[str] | None = None) -> WeightMap:
    """The published Griffon format.

    Args:
        config: what the model consists of.
        present: names of a file; a part of `LEFT_OUT` that it lacks altogether may stay new. None asks for every part.
    """
    names = None if present is None else list(present)
    new = [ours for ours, starts in LEFT_OUT.items() if names and not any(name.startswith(starts) for name in names)]
    region = config.region_tower
    return WeightMap(
        rules=(
            *(clip_rules(ENCODER, "region.encoder.", grid=region.grid) if region is not None else ()),
            *((Rule(f"{PROMPT}*", "region.projector.*"),) if region is not None else ()),
            *clip_rules(f"{TOWER}vision_model.", "tower.", grid=config.tower.grid),
            Rule("model.mm_projector.*", "projector.*"),
            *language_rules(),
        ),
        tied=((f"language.{OUTPUT}", f"language.{EMBEDDING}"),) if config.language.get("tie_word_embeddings") else (),
        ignored=COMPUTED,
        new=tuple(new),
        label="published Griffon checkpoint",
    )
