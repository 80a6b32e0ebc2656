"""The `config.json` of published folders, to and from `VisperConfig`.

Names and defaults are those of `ola_vlm/model/language_model` of SHI-Labs/VisPer-LM (f7baf3b); entries that only its
trainer read are left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmcore.errors import WeightsError
from mmcore.vision.clip_vit import CLIP_VIT, ClipTower
from mmcore.vision.convnext import CLIP_CONVNEXT, ConvNextTower
from mmcore.vision.towers import Tower

from mmcore_visper.config import (
    DEPTH,
    GEN,
    SEG,
    TASKS,
    TEMPLATES,
    DepthDecoderConfig,
    TaskConfig,
    VisperConfig,
)

_LAYERS = {"gen": "img_layer_indices", "depth": "depth_layer_indices", "seg": "seg_layer_indices"}
_WEIGHTS = {"gen": "img_loss_weight", "depth": "depth_loss_weight", "seg": "seg_loss_weight"}
_SIZES = ("num_tokens", "output_dim", "depth", "dim_head", "num_heads", "ff_mult")
_LANGUAGE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rms_norm_eps",
    "sliding_window",
    "attention_bias",
    "hidden_act",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)
"""Entries that describe the language model; the others are the family's own or the trainer's."""
_FIXED: Mapping[str, Any] = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "tokenizer_padding_side": "right",
}
_CLASSES = {
    ("pt", "llama"): ("ola_llama", "OlaLlavaLlamaForCausalLM"),
    ("pt", "phi3"): ("ola_phi3", "OlaLlavaPhi3ForCausalLM"),
    ("ift", "llama"): ("llava_llama", "LlavaLlamaForCausalLM"),
    ("ift", "phi3"): ("llava_phi3", "LlavaPhi3ForCausalLM"),
    ("probe", "llama"): ("probe_dsg_llava_llama", "ProbeDSGLlavaLlamaForCausalLM"),
}
_TEACHERS = {
    "image_generator": "stabilityai/stable-diffusion-2-1-unclip",
    "image_segmentor": "shi-labs/oneformer_coco_swin_large",
    "depth_estimator": "depth_anything_v2_vitl.pth",
}


def from_published(
    config: Mapping[str, Any],
    *,
    kind: str | None = None,
    tower: Tower | None = None,
    depth_decoder: DepthDecoderConfig | None = None,
) -> VisperConfig:
    """Our configuration of a published `config.json`.

    Args:
        config: its content.
        kind: published class name or `model_type`; by default the one in `config`.
        tower: sizes of the vision tower, which published files only name.
        depth_decoder: sizes of the depth decoder, by default the published one.

    Raises:
        WeightsError: it describes a model that this family does not have; names the entry.
    """
    said = kind or config.get("model_type") or "".join(config.get("architectures") or ())
    word = str(said).lower()
    language = language_of(config, word)
    tasks = _tasks(config)
    probe = config.get("probe_mode")
    has_predictors = bool(tasks) and ("ola" in word or "dsg" in word) and probe is None
    for entry, expected in (("mm_projector_type", "mlp2x_gelu"), ("mm_vision_select_feature", "patch")):
        if config.get(entry, expected) != expected:
            raise WeightsError(f"{entry} {config[entry]!r} is not supported", known=expected, where="config.json")
    return VisperConfig(
        language=language,
        tower=tower or tower_of(config),
        tokenizer=str(config.get("_name_or_path") or ""),
        template=TEMPLATES[language["model_type"]],
        max_length=int(config.get("tokenizer_model_max_length", 4096)),
        image_aspect="pad" if config.get("image_aspect_ratio") == "pad" else "square",
        tasks=tasks,
        num_task_tokens=int(config.get("num_task_tokens", 0)),
        # Classes of later stages fall back to the whole rows; the predictor class always takes means.
        task_token_format="expand_emb" if has_predictors else config.get("task_token_format", "emb"),
        predictors=has_predictors,
        pass_text_to_aux=bool(config.get("pass_text_to_aux", True)),
        use_intermediate_depth=bool(config.get("image_depth", {}).get("use_intermediate_depth", True)),
        use_contrastive=bool(config.get("use_contrastive", True)),
        contrastive_weight=float(config.get("contrastive_loss_weight", 0.3)),
        depth_decoder=depth_decoder or DepthDecoderConfig(),
        probe=probe,
        probe_task_tokens=False,
    )


def to_published(config: VisperConfig) -> dict[str, Any]:
    """The entries of a published `config.json` for this model.

    Raises:
        WeightsError: the published code has no class for it.
    """
    language = dict(config.language)
    model = language.pop("model_type")
    if language.get("sliding_window") is not None:
        language["sliding_window"] -= 1
    stage = "probe" if config.probe else "pt" if config.predictors and config.tasks else "ift"
    if (stage, model) not in _CLASSES:
        raise WeightsError(f"the published code has no {stage} class for {model}", known=sorted(map(str, _CLASSES)))
    model_type, architecture = _CLASSES[stage, model]
    result = {
        **language,
        "model_type": model_type,
        "architectures": [architecture],
        "mm_vision_tower": config.tower.name,
        "mm_hidden_size": config.tower.channels,
        **_FIXED,
        "image_aspect_ratio": config.image_aspect,
        "tokenizer_model_max_length": config.max_length,
    }
    if isinstance(config.tower, ClipTower):
        result["mm_vision_select_layer"] = config.tower.select_layer
    if config.probe:
        result |= _TEACHERS | {"probe_mode": config.probe} | _task_entries(config, config.tasks)
    if config.tasks and (config.num_task_tokens or not config.probe):
        result |= _TEACHERS | {
            "aux_mode": "-".join(task.name for task in config.tasks),
            "num_task_tokens": config.num_task_tokens,
            "task_token_format": config.task_token_format,
            "pass_text_to_aux": config.pass_text_to_aux,
            "use_contrastive": config.use_contrastive,
            "contrastive_loss_weight": config.contrastive_weight,
            "use_ce": False,
            "sample_tokens": False,
            **_task_entries(config, config.tasks),
        }
    return result


def tower_of(config: Mapping[str, Any]) -> Tower:
    """The published vision tower that a `config.json` names.

    Raises:
        WeightsError: it is none of the two.
    """
    name = str(config.get("mm_vision_tower", ""))
    if "convnext" in name.lower():
        size = re.search(r"res(\d+)", name)
        return ConvNextTower(name=name, image_size=int(size.group(1)) if size else 256)
    if "clip-vit-large-patch14" in name:
        layer = int(config.get("mm_vision_select_layer", -2))
        return ClipTower(name=name, image_size=336 if "336" in name else 224, select_layer=layer)
    raise WeightsError(f"unknown vision tower {name!r}", where="mm_vision_tower", known=[CLIP_VIT, CLIP_CONVNEXT])


def language_of(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The language model's part of a published `config.json`; `kind` is its `model_type` or class name."""
    model = "phi3" if "phi3" in kind.lower() else "llama"
    language: dict[str, Any] = {"model_type": model} | {name: config[name] for name in _LANGUAGE if name in config}
    language.setdefault("tie_word_embeddings", False)
    if model == "phi3" and language.get("sliding_window") is not None:
        language["sliding_window"] += 1
    return language


def _tasks(config: Mapping[str, Any]) -> tuple[TaskConfig, ...]:
    order = config.get("aux_mode") or config.get("probe_mode") or ""
    return tuple(_published_task(name, config) for name in str(order).split("-") if name)


def _published_task(name: str, config: Mapping[str, Any]) -> TaskConfig:
    if name not in TASKS:
        raise WeightsError(f"unknown task {name!r}", where="aux_mode", known=TASKS)
    base = {"gen": GEN, "depth": DEPTH, "seg": SEG}[name]
    given: Mapping[str, Any] = config.get(f"image_{name}", {})
    changes: dict[str, Any] = {size: given[size] for size in _SIZES if size in given}
    if config.get("probe_mode"):
        changes["layers"] = ()
    if _LAYERS[name] in given:
        changes["layers"] = tuple(int(layer) for layer in re.findall(r"\d+", str(given[_LAYERS[name]])))
    if _WEIGHTS[name] in given:
        changes["weight"] = float(given[_WEIGHTS[name]])
    return replace(base, **changes)


def _task_entries(config: VisperConfig, tasks: Sequence[TaskConfig]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for task in tasks:
        entry: dict[str, Any] = {size: getattr(task, size) for size in _SIZES}
        if task.layers:
            entry[_LAYERS[task.name]] = "-".join(map(str, task.layers))
            entry[_WEIGHTS[task.name]] = task.weight
            if task.name == "depth" and not config.use_intermediate_depth:
                entry["use_intermediate_depth"] = False
        entries[f"image_{task.name}"] = entry
    return entries
