"""The `config.json` of published folders, to and from `GriffonConfig`.

Names and defaults are those of `griffon/model` of jefferyZhan/Griffon (9866875), and of `llava/model` of v1 (7539554);
entries that only its trainer read are left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmcore.errors import WeightsError
from mmcore.language.llava.published_config import read_settings, write_settings
from mmcore.vision.clip_vit import ClipTower

from mmcore_griffon.config import REGION_TOWER, GriffonConfig

TEMPLATES: Mapping[str, str] = {"llama": "llava_llama_2", "gemma2": "gemma_instruct", "qwen2": "qwen2"}
"""Conversation template by language model."""
_CLASSES: Mapping[str, tuple[str, str]] = {
    "llama": ("llama2_Griffon", "GriffonLlama2ForCausalLM"),
    "gemma2": ("gemma2_Griffon", "GriffonGemma2ForCausalLM"),
    "qwen2": ("qwen2_Griffon", "GriffonQwen25ForCausalLM"),
}
_V1 = ("llava", "LlavaLlamaForCausalLM")
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": None},
    "gemma2": {"attention_bias": False, "cache_implementation": "hybrid"},
    "qwen2": {"rope_scaling": None, "sliding_window": None},
}
"""What upstream's transformers (4.45) writes besides, by language model."""
_ALWAYS = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "transformers_version": "4.45.2",
    "use_cache": False,
}


def from_published(
    entries: Mapping[str, Any],
    *,
    kind: str | None = None,
    tower: ClipTower | None = None,
    region_tower: ClipTower | None = REGION_TOWER,
) -> GriffonConfig:
    """Our configuration of a published `config.json`.

    Args:
        entries: its content.
        kind: published class name or `model_type`; by default the one in `entries`.
        tower: sizes of the vision tower, which published files only name.
        region_tower: sizes of the region tokenizer's, which they do not mention at all.

    Raises:
        WeightsError: it describes a model that this family does not have; names the entry.
    """
    said = str(kind or entries.get("model_type") or "".join(entries.get("architectures") or ())).lower()
    settings = read_settings(entries, said, tower)
    model = settings["language"]["model_type"]
    if model not in TEMPLATES:
        raise WeightsError(f"Griffon has no language model {model!r}", where="config.json", known=TEMPLATES)
    settings["language"]["tie_word_embeddings"] = bool(entries.get("tie_word_embeddings", model == "gemma2"))
    settings["tower"] = replace(
        settings["tower"],
        select_layer=int(entries.get("mm_vision_select_layer", settings["tower"].select_layer)),
        select_feature=entries.get("mm_vision_select_feature", settings["tower"].select_feature),
    )
    settings["image_aspect"] = "squash"
    region = region_tower if entries.get("unshared_visual_encoder") else None
    return GriffonConfig(**settings, template=TEMPLATES[model], region_tower=region)


def to_published(config: GriffonConfig) -> dict[str, Any]:
    """The entries of a published `config.json` for this model."""
    model = str(config.language["model_type"])
    is_v1 = model == "llama" and config.region_tower is None and config.projector == "linear"
    model_type, architecture = _V1 if is_v1 else _CLASSES[model]
    language = dict(config.language)
    if model == "llama":
        language.setdefault("head_dim", language["hidden_size"] // language["num_attention_heads"])
    return {**_FIXED[model], **_ALWAYS, **write_settings(config.replace(language=language))} | {
        "model_type": model_type,
        "architectures": [architecture],
        "image_aspect_ratio": "square",  # upstream's word for squashing
        "tokenizer_padding_side": "left" if model == "gemma2" else "right",
        "unshared_visual_encoder": config.region_tower is not None,
        "tune_mm_mlp_adapter": False,
    }
