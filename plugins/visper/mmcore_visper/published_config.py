"""The `config.json` of published folders, to and from `VisperConfig`.

Names and defaults are those of `ola_vlm/model/language_model` of SHI-Labs/VisPer-LM (f7baf3b); entries that only its
trainer read are left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmcore.errors import WeightsError
from mmcore.language.llava.published_config import read_settings, write_settings
from mmcore.vision.towers import Tower

from mmcore_visper.config import (
    DEPTH,
    GEN,
    SEG,
    TASKS,
    TEMPLATES,
    DepthDecoderConfig,
    Published,
    TaskConfig,
    VisperConfig,
)

_LAYERS = {"gen": "img_layer_indices", "depth": "depth_layer_indices", "seg": "seg_layer_indices"}
_WEIGHTS = {"gen": "img_loss_weight", "depth": "depth_loss_weight", "seg": "seg_loss_weight"}
_SIZES = ("num_tokens", "output_dim", "depth", "dim_head", "num_heads", "ff_mult")
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
    settings = read_settings(config, word, tower)
    tasks = _tasks(config)
    probe = config.get("probe_mode")
    has_predictors = bool(tasks) and ("ola" in word or "dsg" in word) and probe is None
    return VisperConfig(
        **settings,
        template=TEMPLATES[settings["language"]["model_type"]],
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
        published=Published(probe_task_tokens=False),
    )


def to_published(config: VisperConfig) -> dict[str, Any]:
    """The entries of a published `config.json` for this model.

    Raises:
        WeightsError: the published code has no class for it.
    """
    if config.image_aspect == "squash" or config.after_image_text:
        what = "image_aspect squash" if config.image_aspect == "squash" else "words behind every image"
        raise WeightsError(f"the published code knows no {what}", where="config.json", do="export with --format hf")
    model = config.language["model_type"]
    stage = "probe" if config.probe else "pt" if config.predictors and config.tasks else "ift"
    if (stage, model) not in _CLASSES:
        raise WeightsError(f"the published code has no {stage} class for {model}", known=sorted(map(str, _CLASSES)))
    model_type, architecture = _CLASSES[stage, model]
    result = write_settings(config) | {"model_type": model_type, "architectures": [architecture]}
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
