"""Attention under a `Masking` (`mmcore.language.masking`), inside unpatched transformers models.

transformers hands every attention layer to a function registered by name and passes unknown keyword arguments of the
model's forward on to it. Ours takes a `Masking`. A function without a registered mask gets none, so the model neither
builds masks of its own nor asks the device whether there is padding (which would wait for it in every step). Capped
scores (Gemma 2) never stand as a whole matrix (`mmcore.language.capped`).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mmcore.errors import RecipeError
from mmcore.language.capped import FEW, capped_attention
from mmcore.language.masking import Masking

NAME = "mmcore_masking"
"""Under which name transformers knows `attend`."""


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    attention_mask: Tensor | None,
    *,
    masking: Masking,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **ignored: Any,
) -> tuple[Float[Tensor, "rows queries heads width"], None]:
    """Causal attention under a `Masking`, with the signature transformers calls.

    Args:
        module: the attention layer.
        query: (rows, heads, queries, width).
        key: fewer heads than queries are shared by groups of them.
        value: as `key`.
        attention_mask: always None; the mask is in `masking`.
        masking: from the keyword arguments of the model's forward.
        scaling: factor on the products; 1/√width when None.
        dropout: probability, already 0 outside training.
        sliding_window: keys a query sees, itself included; None for all before it.
        softcap: scores are squeezed into ±softcap by tanh before the mask (Gemma 2).
        ignored: what transformers passes for other kernels.
    """
    assert attention_mask is None
    small = query.shape[2] <= FEW or not masking.is_whole or dropout > 0
    is_capped = softcap is not None and masking.kernel != "eager" and not small
    if masking.boundaries is not None and softcap is None:
        return _varlen(query, key, value, masking.boundaries, scaling, sliding_window), None
    if masking.unpacked is not None:
        query, key, value = (_regroup(part, masking.unpacked.samples) for part in (query, key, value))
    mask = None if is_capped else masking.mask(sliding_window)
    if is_capped:
        assert softcap is not None
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = capped_attention(query, key, value, masking, cap=softcap, scaling=scale, window=sliding_window)
    elif softcap is not None or masking.kernel == "eager":
        out = _explicit(query, _shared(key, query), _shared(value, query), mask, scaling, softcap, dropout)
    elif query.shape[2] == 1:
        # Query heads that share a key become queries of one head, which every kernel takes and nothing has to repeat.
        shared = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
        out = scaled_dot_product_attention(shared, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
        out = out.reshape(query.shape)
    else:
        # Kernels that take a mask want one key per query head; repeating is cheaper than the kernel without fusion.
        grouped = mask is None and query.shape[1] != key.shape[1]
        if not grouped:
            key, value = _shared(key, query), _shared(value, query)
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=grouped,
        )
    if masking.unpacked is not None:
        out = _regroup(out, masking.unpacked.rows)
    return out.transpose(1, 2).contiguous(), None


def _regroup(part: Tensor, index: Int[Tensor, "rows length"]) -> Float[Tensor, "rows heads length width"]:
    """The flat positions of (rows, heads, length, width) in another order and other rows."""
    flat = part.transpose(1, 2).flatten(0, 1).index_select(0, index.flatten())
    return flat.unflatten(0, index.shape).transpose(1, 2)


def _shared(key: Tensor, query: Tensor) -> Tensor:
    """One key head per query head."""
    groups = query.shape[1] // key.shape[1]
    return key if groups == 1 else key.repeat_interleave(groups, 1)


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if mask is None:
        size = scores.shape[-2:]
        mask = torch.ones(size, dtype=torch.bool, device=scores.device).tril(size[1] - size[0])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return torch.dropout(weights, dropout, train=dropout > 0) @ value


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, boundaries: tuple[Tensor, int], scaling: float | None, window: int | None
) -> Tensor:
    stretches, longest = boundaries
    # Under autocast rotary embeddings leave queries and keys in float32; this kernel is not autocast's to convert.
    query, key = query.to(value.dtype), key.to(value.dtype)
    flat = [part.transpose(1, 2).flatten(0, 1) for part in (query, _shared(key, query), _shared(value, query))]
    sides = (-1 if window is None else window - 1, 0)
    out = varlen_kernel()(*flat, stretches, stretches, longest, longest, scale=scaling, window_size=sides)
    return out.view(query.shape[0], query.shape[2], *out.shape[1:])


def varlen_kernel() -> Callable[..., Any]:
    """torch's variable-length flash attention.

    Raises:
        RecipeError: this torch has none that knows windows.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        varlen_attn = None
    if varlen_attn is None or "window_size" not in inspect.signature(varlen_attn).parameters:
        raise RecipeError(
            f"torch {torch.__version__} has no variable-length attention with windows", do="choose attention 'sdpa'"
        )
    return varlen_attn


AttentionInterface.register(NAME, attend)
