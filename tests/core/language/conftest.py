"""Tiny language models of every supported kind, made once."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from mmcore.language import models

TinyModel = Callable[..., models.LanguageModel]

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 500000.0},
    "phi3": {"sliding_window": 7},
    "gemma2": {
        "head_dim": 8,
        "sliding_window": 7,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 6.0,
        "query_pre_attn_scalar": 20,
    },
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": {"head_dim": 16, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
}


@pytest.fixture
def tiny_model() -> TinyModel:
    """`tiny_model(kind, attention=..., **config)`: large enough weights for attention to matter, in eval mode."""

    def make(kind: str, attention: models.Kernel = "sdpa", **changes: Any) -> models.LanguageModel:
        model = models.build({"model_type": kind, **BASE, **EXTRA[kind], **changes}, attention)
        model.load_state_dict(_weights(kind, tuple((n, tuple(t.shape)) for n, t in model.state_dict().items())))
        return model.eval()

    return make


@cache
def _weights(kind: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(kind))
    tensors = {
        name: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 10)
        + (len(shape) == 1 and kind != "gemma2" and "norm" in name)
        for name, shape in shapes
    }
    if kind == "gemma2":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return tensors
