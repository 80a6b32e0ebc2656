"""Names in published checkpoints <-> ours: GLaMM in both directions; SAM, LLaVA, language models and CLIP in.

    model.region_encoder.*                      region_encoder.*
    model.text_hidden_fcs.0.*                   seg_projection.*
    model.grounding_encoder.*                   sam.*             segment-anything's names, alone in its own file
    model.vision_tower.*, mm_projector, model.* tower, projector, language          the core's

Published folders lack the tower, which is CLIP's own; training checkpoints have it, and adapters apart.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmcore.errors import WeightsError
from mmcore.language.llava import names as llava
from mmcore.language.llava.names import COMPUTED, TOWER, Part, llava_rules
from mmcore.language.published import EMBEDDING, OUTPUT
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_glamm.config import GlammConfig

GROUNDING, REGION, PROJECTION = "model.grounding_encoder.", "model.region_encoder.", "model.text_hidden_fcs.0."
WIDE = (GROUNDING, PROJECTION)
"""Kept in float32 in published files: the script that merged them made these parts anew."""
SECOND_NAMES = ("*.mlvl_fuse.*", "*.roi_align.*")
"""Some published folders hold the region encoder twice, under another name the second time."""
POSITION_IDS = f"{TOWER}vision_model.embeddings.position_ids"
_LORA_A, _LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"

REGION_NAMES = {
    "mlvl_fuse.input_conv.*": "input_convs.*",
    "mlvl_fuse.fuse_convs.*.conv.weight": "exchange.*.conv.weight",
    "mlvl_fuse.fuse_convs.*.gn.*": "exchange.*.norm.*",
    "roi_align.pconvs.*": "roi_convs.*",
    "roi_align.pos_embedd.*": "place.*",
    "roi_align.flatten_linear.*": "flatten.*",
    "roi_align.updims.*": "word.*",
}
ENCODER_NAMES = {
    "image_encoder.patch_embed.proj.*": "image_encoder.patch_embed.*",
    "image_encoder.blocks.*.mlp.lin1.*": "image_encoder.layers.*.lin1.*",
    "image_encoder.blocks.*.mlp.lin2.*": "image_encoder.layers.*.lin2.*",
    "image_encoder.blocks.*": "image_encoder.layers.*",
    "image_encoder.*": "image_encoder.*",
}
_PROMPT = {
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.shared_embedding.positional_embedding"
    ),
    "prompt_encoder.point_embeddings.*": "prompt_encoder.point_embed.*",
    **{
        f"prompt_encoder.mask_downscaling.{place}.*": f"prompt_encoder.mask_embed.{name}.*"
        for place, name in ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3"))
    },
    "prompt_encoder.*": "prompt_encoder.*",
}
_DECODER = {
    **{f"transformer.layers.*.norm{n}.*": f"transformer.layers.*.layer_norm{n}.*" for n in range(1, 5)},
    "transformer.norm_final_attn.*": "transformer.layer_norm_final_attn.*",
    "output_upscaling.0.*": "upscale_conv1.*",
    "output_upscaling.1.*": "upscale_layer_norm.*",
    "output_upscaling.3.*": "upscale_conv2.*",
}


def sam_rules(published: str = "", ours: str = "sam.", *, iou_depth: int = 3) -> list[Rule]:
    """Names of segment-anything's parts behind a prefix, and ours; `iou_depth` layers make its quality head."""
    heads = _mlp("output_hypernetworks_mlps.*.", 3) | _mlp("iou_prediction_head.", iou_depth)
    decoder = {**_DECODER, **heads}
    names = {**ENCODER_NAMES, **_PROMPT, **{f"mask_decoder.{a}": f"mask_decoder.{b}" for a, b in decoder.items()}}
    names["mask_decoder.*"] = "mask_decoder.*"
    return [Rule(f"{published}{a}", f"{ours}{b}") for a, b in names.items()]


def _mlp(part: str, depth: int) -> dict[str, str]:
    """Layers of an MLP by number, and as transformers calls the first, the last and those between."""
    last = {f"{part}layers.{depth - 1}.*": f"{part}proj_out.*", f"{part}layers.0.*": f"{part}proj_in.*"}
    return last | {f"{part}layers.{n}.*": f"{part}layers.{n - 1}.*" for n in range(1, depth - 1)}


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
    "sam": Part(
        label="SAM checkpoint",
        fills="sam",
        starts=("image_encoder.", "mask_decoder.", "prompt_encoder."),
        rules=tuple(sam_rules()),
        unused=("pixel_mean", "pixel_std"),
    ),
}
"""The files of single parts that training begins from."""


def with_new_words(tensors: Mapping[str, Tensor], words: int, deviation: float) -> dict[str, Tensor]:
    """A language model's tensors with rows for the words that GLaMM adds, drawn as transformers 4.28 draws them.

    Args:
        tensors: published names.
        words: rows wanted.
        deviation: of the normal distribution around 0.
    """
    result, chance = dict(tensors), torch.Generator().manual_seed(0)
    for name in (EMBEDDING, OUTPUT):
        if name in result and (missing := words - len(result[name])) > 0:
            rows = torch.randn(missing, result[name].shape[1], generator=chance) * deviation
            result[name] = torch.cat([result[name], rows.to(result[name].dtype)])
    return result


def merged(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A training checkpoint's tensors with its adapters folded in, W + alpha / rank · B A.

    Args:
        tensors: published names; those without adapters are returned as they are.
        alpha: of the adapters.

    Raises:
        WeightsError: an adapter lacks one of its parts or its layer.
    """
    result = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for name in tensors:
        if not name.endswith(_LORA_A):
            continue
        layer = name.removesuffix(_LORA_A)
        weight = f"{layer}.weight"
        if f"{layer}{_LORA_B}" not in tensors or weight not in result:
            raise WeightsError(f"the adapter of {layer} is incomplete", where="training checkpoint")
        down, up = tensors[name], tensors[f"{layer}{_LORA_B}"]
        update = (up.float() @ down.float()) * (alpha / len(down))
        result[weight] = (result[weight].float() + update).to(result[weight].dtype)
    return result


def as_published(tensors: Mapping[str, Tensor], config: GlammConfig, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What published folders hold of a whole model: no tower, the rotary frequencies, two precisions.

    Args:
        tensors: published names and values, tower included.
        config: of the model.
        dtype: of all but SAM, its projection and the frequencies; None leaves every tensor as it is.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(TOWER):
            wanted = tensor.dtype if dtype is None else torch.float32 if name.startswith(WIDE) else dtype
            result[name] = tensor.to(wanted)
    return result | frequencies(config.language)


def frequencies(language: Mapping[str, Any]) -> dict[str, Tensor]:
    """The rotary frequencies that transformers 4.28 keeps in every layer."""
    width = int(language.get("head_dim") or language["hidden_size"] // language["num_attention_heads"])
    values = 1.0 / (float(language.get("rope_theta", 10000.0)) ** (torch.arange(0, width, 2).float() / width))
    layers = range(int(language["num_hidden_layers"]))
    return {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": values.clone() for layer in layers}
