"""The `config.json` of LLaVA's descendants: which of its entries describe language model, tower and projector.

A family reads its own entries beside them. Entries that only a trainer read are left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from mmcore.errors import WeightsError
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.models import KINDS
from mmcore.vision.clip_vit import CLIP_VIT, ClipTower
from mmcore.vision.convnext import CLIP_CONVNEXT, ConvNextTower
from mmcore.vision.projectors import known_projector
from mmcore.vision.towers import Tower

LANGUAGE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rms_norm_eps",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "attention_bias",
    "hidden_act",
    "hidden_activation",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)
"""Entries that describe the language model; the others are the family's own or the trainer's."""
_FIXED: Mapping[str, Any] = {
    "mm_patch_merge_type": "flat",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "tokenizer_padding_side": "right",
}


def read_settings(entries: Mapping[str, Any], kind: str, tower: Tower | None = None) -> dict[str, Any]:
    """Fields of a `LlavaConfig` from a published `config.json`; the template is the family's to say.

    Args:
        entries: its content.
        kind: published class name or `model_type`.
        tower: sizes of the vision tower, which published files only name.

    Raises:
        WeightsError: it describes a model that is not known here; names the entry.
    """
    projector = str(entries.get("mm_projector_type", "linear"))
    if not known_projector(projector):
        raise WeightsError(f"mm_projector_type {projector!r} is not supported", where="config.json")
    return {
        "language": read_language(entries, kind),
        "tower": tower or read_tower(entries),
        "projector": projector,
        "tokenizer": str(entries.get("_name_or_path") or ""),
        "max_length": int(entries.get("tokenizer_model_max_length", 4096)),
        "image_aspect": "pad" if entries.get("image_aspect_ratio") == "pad" else "square",
    }


def write_settings(config: LlavaConfig) -> dict[str, Any]:
    """The entries of a published `config.json` for these settings, without class and `model_type`."""
    language = {name: value for name, value in config.language.items() if name != "model_type"}
    if config.language["model_type"] == "phi3" and language.get("sliding_window") is not None:
        language["sliding_window"] -= 1
    result = {
        **language,
        "mm_vision_tower": config.tower.name,
        "mm_hidden_size": config.tower.channels,
        "mm_projector_type": config.projector,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        **_FIXED,
        "image_aspect_ratio": config.image_aspect,
        "tokenizer_model_max_length": config.max_length,
    }
    if isinstance(config.tower, ClipTower):
        result["mm_vision_select_layer"] = config.tower.select_layer
        result["mm_vision_select_feature"] = config.tower.select_feature
    return result


def read_tower(entries: Mapping[str, Any]) -> Tower:
    """The published vision tower that a `config.json` names, and what is read of it.

    Raises:
        WeightsError: it is none of CLIP's ViT-L/14 and ConvNeXt.
    """
    name = str(entries.get("mm_vision_tower", ""))
    if "convnext" in name.lower():
        size = re.search(r"res(\d+)", name)
        return ConvNextTower(name=name, image_size=int(size.group(1)) if size else 256)
    if "clip-vit-large-pat" in name:  # Griffon's folders say path14 or patch14, and the size they were enlarged to
        sizes = re.findall(r"\d{3,4}", name.rsplit("/", 1)[-1])
        return ClipTower(
            name=name,
            image_size=int(sizes[-1]) if sizes else 224,
            select_layer=int(entries.get("mm_vision_select_layer", -2)),
            select_feature=entries.get("mm_vision_select_feature", "patch"),
        )
    raise WeightsError(f"unknown vision tower {name!r}", where="mm_vision_tower", known=[CLIP_VIT, CLIP_CONVNEXT])


def read_language(entries: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The language model's part of a published `config.json`; `kind` is its `model_type` or class name.

    Phi-3's window is one more here than in its published file, see `mmcore.language.models.modern_config`.
    """
    model = next((one for one in KINDS if one in kind.lower()), "llama")
    language: dict[str, Any] = {"model_type": model} | {name: entries[name] for name in LANGUAGE if name in entries}
    language.setdefault("tie_word_embeddings", False)
    if model == "phi3" and language.get("sliding_window") is not None:
        language["sliding_window"] += 1
    return language
