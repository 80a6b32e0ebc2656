"""A model in the layout of `LlavaForConditionalGeneration`: tensors by their names there, and its configuration.

Names on the left are those of LLaVA's published files, on the right those that transformers 4 and 5 and vLLM read:

    model.embed_tokens, model.layers, model.norm   language_model.model.*
    lm_head                                        language_model.lm_head
    model.vision_tower.vision_tower.vision_model   vision_tower.vision_model
    model.mm_projector.0, .2                       multi_modal_projector.linear_1, .linear_2

A family may put constant vectors after every image. A plain LLaVA gives the same logits when they stand in rows of the
embedding matrix and the chat template writes the tokens of these rows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from mmcore.errors import WeightsError
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.siglip_vit import SiglipTower
from mmcore.vision.towers import Tower

_RENAMED = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
)
_NEWER = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.vision_tower.", "vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower.vision_tower.vision_model."),
    ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
)
"""Names that versions 4 and 5 of transformers write, to LLaVA's own; applied in this order, so that one may lead to
another."""
_TOWER_ALONE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.", "head.")
"""Version 5 writes a tower without the part of a larger model that it used to be in."""
_EMBEDDINGS = "language_model.model.embed_tokens.weight"
_OUTPUT = "language_model.lm_head.weight"
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
PROJECTOR = "mlp2x_gelu"
"""The only one there."""
_STRATEGIES = {"patch": "default", "cls_patch": "full"}


def expressible(language: Mapping[str, Any], tower: Tower, projector: str = PROJECTOR) -> bool:
    """Whether LLaVA of transformers computes such a model, see `lacking`."""
    return lacking(language, tower, projector) is None


def lacking(language: Mapping[str, Any], tower: Tower, projector: str) -> str | None:
    """Which part LLaVA of transformers does not have, or None when it computes such a model.

    Args:
        language: its configuration. Gemma 2 is left out: its published descendants scale a picture's rows like words.
        tower: CLIP's or SigLIP's vision transformer.
        projector: by its published name.
    """
    if language.get("model_type") not in _ARCHITECTURES:
        return f"language model {language.get('model_type')}"
    if not isinstance(tower, SiglipTower) and not (
        isinstance(tower, ClipTower) and tower.select_feature in _STRATEGIES
    ):
        return f"vision tower {tower.name}"
    return None if projector == PROJECTOR else f"projector {projector}"


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Names in files of transformers, of a LLaVA or of a tower alone, as they are in published files."""
    names = list(names)
    alone = "embeddings.patch_embedding.weight" in names
    inside = _TOWER_ALONE if alone else ()
    return {name: f"vision_model.{name}" if name.startswith(inside) else _published(name) for name in names}


def _published(name: str) -> str:
    if name.startswith("model.vision_tower.vision_tower."):
        return name
    for old, new in _NEWER:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def fold(
    state: Mapping[str, Tensor],
    vectors: Tensor | None = None,
    ids: Sequence[int] = (),
    *,
    rows: int | None = None,
    dropped: Collection[str] = (),
) -> dict[str, Tensor]:
    """The tensors of a plain LLaVA from those of a published model.

    Args:
        state: published names and values.
        vectors: (count, channels), the constants that follow every image.
        ids: the embedding rows that become these, in order.
        rows: of the embedding matrix and the output layer; more than now when they have to grow. A new row of the
            output layer repeats the first, so it can tie with that word at most.
        dropped: beginnings of the names that a plain LLaVA has no use for.

    Raises:
        WeightsError: a name belongs to no part of the model.
    """
    named = {name: _new_name(name, tuple(dropped)) for name in state}
    result = {new: state[name] for name, new in named.items() if new is not None}
    # A tied output layer must not get the vectors.
    result.setdefault(_OUTPUT, result[_EMBEDDINGS].clone())
    wanted = rows or len(result[_EMBEDDINGS])
    embeddings = _grow(result[_EMBEDDINGS], wanted, zero=True).clone()
    if vectors is not None:
        embeddings[list(ids)] = vectors.to(embeddings)
    return result | {_EMBEDDINGS: embeddings, _OUTPUT: _grow(result[_OUTPUT], wanted, zero=False)}


def _new_name(name: str, dropped: tuple[str, ...]) -> str | None:
    """The name in LLaVA's layout, None for what it has no use for."""
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    if name.startswith(dropped):
        return None
    raise WeightsError(f"{name} is no tensor of a LLaVA, and not among those that may be left out", where="export")


def _grow(matrix: Tensor, rows: int, *, zero: bool) -> Tensor:
    missing = rows - len(matrix)
    if missing <= 0:
        return matrix
    fresh = torch.zeros_like(matrix[:1]) if zero else matrix[:1]
    return torch.cat([matrix, fresh.expand(missing, -1)])


def model_config(
    language: Mapping[str, Any], tower: Tower, image_id: int, rows: int, dtype: torch.dtype
) -> dict[str, Any]:
    """`config.json` of the folder; the parts name their own architectures, where vLLM looks for the language model.

    Args:
        language: configuration of the language model.
        tower: sizes, and which layer is read.
        image_id: token that stands for a patch.
        rows: of the embedding matrix.
        dtype: of the tensors.
    """
    precision = str(dtype).removeprefix("torch.")
    architecture = _ARCHITECTURES[language["model_type"]]
    text = {**language, "architectures": [architecture], "vocab_size": rows, "dtype": precision}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "transformers_version": transformers.__version__,  # Phi-3's window means another number before version 5
        "dtype": precision,
        "image_token_index": image_id,
        "image_seq_length": tower.num_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": _vit(tower).select_layer,
        "vision_feature_select_strategy": _strategy(tower),
        "tie_word_embeddings": False,
        "text_config": text | {"tie_word_embeddings": False},
        "vision_config": vision_config(tower),
    }


def _vit(tower: Tower) -> ClipTower | SiglipTower:
    assert isinstance(tower, ClipTower | SiglipTower), "asked only where `lacking` is None"
    return tower


def _strategy(tower: Tower) -> str:
    return _STRATEGIES[tower.select_feature] if isinstance(tower, ClipTower) else "full"


def vision_config(tower: Tower) -> dict[str, Any]:
    """The part of `config.json` about the vision transformer; SigLIP's pooling head is not in the folder."""
    tower = _vit(tower)
    if isinstance(tower, ClipTower):
        kind = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]}
        kind["projection_dim"] = tower.projection_dim  # type: ignore[assignment]
    else:
        kind = {"model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"], "vision_use_head": False}
    return kind | {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "hidden_act": tower.act,
        "layer_norm_eps": tower.eps,
    }


def processor_config(tower: Tower, image: str) -> dict[str, Any]:
    """`processor_config.json`: how many placeholders an image becomes."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": image,
        "patch_size": _vit(tower).patch_size,
        "num_additional_image_tokens": int(isinstance(tower, ClipTower)),
        "vision_feature_select_strategy": _strategy(tower),
    }
