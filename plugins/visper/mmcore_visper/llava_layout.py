"""VisPer-LM in the layout of `LlavaForConditionalGeneration`: tensors by their names there, and the configurations.

The task vectors that follow every image are constants, so a plain LLaVA gives the same logits when they stand in the
embedding matrix and the chat template writes their tokens. Names are those that transformers 4 and 5 and vLLM read:

    model.embed_tokens, model.layers, model.norm   language_model.model.*   (task vectors written into their rows)
    lm_head                                        language_model.lm_head
    model.vision_tower.vision_tower.vision_model   vision_tower.vision_model
    model.mm_projector.0, .2                       multi_modal_projector.linear_1, .linear_2
    model.special_*_tokens                         the rows
    predictors, logit scales, decoders, teachers   dropped
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcore.errors import WeightsError
from mmcore.vision.clip_vit import ClipTower
from torch import Tensor

from mmcore_visper.config import VisperConfig

_RENAMED = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
)
_DROPPED = (
    "model.special_",
    "image_",
    "depth_logit_scale",
    "seg_logit_scale",
    "gen_logit_scale",
    "da_v2_head.",
    "dav2_backbone.",
    "oneformer.",
)
_EMBEDDINGS = "language_model.model.embed_tokens.weight"
_OUTPUT = "language_model.lm_head.weight"
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM"}


def expressible(config: VisperConfig) -> bool:
    """Whether LLaVA of transformers computes this model: its tower has to be CLIP's vision transformer."""
    return isinstance(config.tower, ClipTower) and config.language["model_type"] in _ARCHITECTURES


def task_rows(state: Mapping[str, Tensor], config: VisperConfig) -> Tensor:
    """The constant vectors that follow every image.

    Args:
        state: published names and values.
        config: tells the order of tasks and how many vectors each gives.

    Returns:
        (task tokens, channels): of each task as many means over consecutive rows as it inserts tokens.
    """
    rows = [
        state[f"model.special_{task}_tokens"].float().unflatten(0, (count, -1)).mean(1)
        for task, count in config.task_tokens
    ]
    return torch.cat(rows) if rows else torch.empty(0, config.width)


def fold(
    state: Mapping[str, Tensor], config: VisperConfig, task_ids: Sequence[int] = (), rows: int | None = None
) -> dict[str, Tensor]:
    """The tensors of a plain LLaVA from those of a VisPer-LM.

    Args:
        state: published names and values; predictors and teachers may be among them.
        config: of the model.
        task_ids: the embedding rows that become the task vectors, in order.
        rows: of the embedding matrix and the output layer; more than now when they have to grow. A new row of the
            output layer repeats the first, so it can tie with that word at most.

    Raises:
        WeightsError: a name belongs to no part of VisPer-LM, or the tower has no place in LLaVA.
    """
    if not expressible(config):
        raise WeightsError(
            "LLaVA in transformers has no place for this model's image tower or language model",
            where=f"tower {type(config.tower).__name__}, language model {config.language['model_type']}",
            known="CLIP's vision transformer with Llama or Phi-3",
        )
    named = {name: _new_name(name) for name in state}
    result = {new: state[name] for name, new in named.items() if new is not None}
    # A tied output layer must not get the task vectors.
    result.setdefault(_OUTPUT, result[_EMBEDDINGS].clone())
    wanted = rows or len(result[_EMBEDDINGS])
    embeddings = _grow(result[_EMBEDDINGS], wanted, zero=True).clone()
    embeddings[list(task_ids)] = task_rows(state, config).to(embeddings)
    return result | {_EMBEDDINGS: embeddings, _OUTPUT: _grow(result[_OUTPUT], wanted, zero=False)}


def _new_name(name: str) -> str | None:
    """The name in LLaVA's layout, None for what it has no use for."""
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    if name.startswith(_DROPPED):
        return None
    raise WeightsError(f"{name} is no tensor of VisPer-LM", where="export")


def _grow(matrix: Tensor, rows: int, *, zero: bool) -> Tensor:
    missing = rows - len(matrix)
    if missing <= 0:
        return matrix
    fresh = torch.zeros_like(matrix[:1]) if zero else matrix[:1]
    return torch.cat([matrix, fresh.expand(missing, -1)])


def model_config(config: VisperConfig, image_id: int, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json` of the folder.

    The parts name their own architectures: vLLM looks there for the language model.
    """
    assert isinstance(config.tower, ClipTower)
    kind = config.language["model_type"]
    precision = str(dtype).removeprefix("torch.")
    text = {**config.language, "architectures": [_ARCHITECTURES[kind]], "vocab_size": rows, "dtype": precision}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": precision,
        "image_token_index": image_id,
        "image_seq_length": config.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": config.tower.select_layer,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": text | {"tie_word_embeddings": False},
        "vision_config": vision_config(config.tower),
    }


def vision_config(tower: ClipTower) -> dict[str, Any]:
    """The part of `config.json` about CLIP's vision transformer."""
    return {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "hidden_act": tower.act,
        "layer_norm_eps": tower.eps,
        "projection_dim": tower.projection_dim,
    }
