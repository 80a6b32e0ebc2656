"""What the checkpoints of LLaVA-like training code hold otherwise than a model: adapters apart, a vocabulary before its
new words, and rotary frequencies.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmcore.errors import WeightsError
from mmcore.language.published import EMBEDDING, OUTPUT

_LORA_A, _LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def with_new_words(tensors: Mapping[str, Tensor], words: int, deviation: float) -> dict[str, Tensor]:
    """A language model's tensors with rows for the words that a family adds, drawn as transformers 4.28 draws them.

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


def rotary_frequencies(language: Mapping[str, Any]) -> dict[str, Tensor]:
    """The rotary frequencies that transformers 4.28 keeps in every layer."""
    width = int(language.get("head_dim") or language["hidden_size"] // language["num_attention_heads"])
    values = 1.0 / (float(language.get("rope_theta", 10000.0)) ** (torch.arange(0, width, 2).float() / width))
    layers = range(int(language["num_hidden_layers"]))
    return {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": values.clone() for layer in layers}
