"""Attention whose scores are squeezed into a range (Gemma 2), without ever holding a whole matrix of them.

    scores = cap · tanh(q k / cap),  weights = softmax(scores where seen),  out = weights v

No fused kernel of torch knows the tanh, and written out it keeps several matrices (heads, queries, keys) a layer for
the backward pass: at the 1369 rows of a picture a few hundred megabytes a sample. Two ways around it, equal to that:

    blocks   some queries at a time against the keys they may see; the backward pass makes each block's scores again.
             Runs anywhere, and skips what lies behind the diagonal and outside a window
    flex     torch's flex attention, compiled; on a GPU (`mmcore.language.flex`)
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmcore.language.flex import flex
from mmcore.language.masking import Masking

FEW = 128
"""Queries up to which the matrix is small enough to be written out."""
BLOCK = 128
"""Queries at a time."""


class _Block(NamedTuple):
    """Queries `start` to `stop`, which see no keys but those from `first` on, up to themselves."""

    start: int
    stop: int
    first: int


def capped_attention(
    query: Float[Tensor, "rows heads length width"],
    key: Float[Tensor, "rows key_heads length width"],
    value: Float[Tensor, "rows key_heads length width"],
    masking: Masking,
    *,
    cap: float,
    scaling: float,
    window: int | None,
) -> Float[Tensor, "rows heads length width"]:
    """Causal attention with capped scores over whole rows.

    Args:
        query: of every position.
        key: fewer heads than queries are shared by groups of them.
        value: as `key`.
        masking: who sees whom; queries and keys are the same positions.
        cap: largest size of a score.
        scaling: factor on the products.
        window: keys a query sees, itself included; None for all before it.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if window is not None and window >= masking.longest:
        window = None
    if query.device.type == "cuda":
        return flex(query, key, value, masking.flex_mask(window), cap=cap, scaling=scaling)
    with torch.autocast(query.device.type, enabled=False):
        return blocks(query, key, value, masking, cap=cap, scaling=scaling, window=window)


# ---- in blocks ----


def blocks(
    query: Tensor, key: Tensor, value: Tensor, masking: Masking, *, cap: float, scaling: float, window: int | None
) -> Tensor:
    """`capped_attention` in blocks of queries; scores are float32."""
    return _Blocks.apply(query, key, value, masking, cap, scaling, window)  # type: ignore[return-value]


class _Blocks(torch.autograd.Function):
    """Forward and backward pass; kept between them are the arguments, the result and one number per query."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        masking: Masking,
        cap: float,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        out = torch.empty_like(query)
        totals = query.new_empty(query.shape[:3], dtype=torch.float32)
        for block in _cut(query.shape[2], window):
            scores, _ = _scores(query, key, masking, block, cap, scaling, window)
            total = scores.logsumexp(-1, keepdim=True)
            weights = scores.sub_(total).exp_().to(value.dtype)
            seen = value[:, :, block.first : block.stop]
            out[:, :, block.start : block.stop] = _ungrouped(weights @ seen, query, block)
            totals[:, :, block.start : block.stop] = _ungrouped(total, query, block)[..., 0]
        context.save_for_backward(query, key, value, out, totals)
        context.settings = masking, cap, scaling, window
        return out

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, out, totals = context.saved_tensors
        masking, cap, scaling, window = context.settings
        grads = torch.empty_like(query), *(torch.zeros_like(part, dtype=torch.float32) for part in (key, value))
        # What every weight of a query would take from it: softmax's gradient needs only this sum.
        taken = (grad.float() * out.float()).sum(-1, keepdim=True)
        for block in _cut(query.shape[2], window):
            scores, slopes = _scores(query, key, masking, block, cap, scaling, window, slopes=True)
            weights = scores.sub_(_grouped(totals[..., None], key, block)).exp_()
            given = _grouped(grad, key, block)
            seen = slice(block.first, block.stop)
            grads[2][:, :, seen] += weights.to(value.dtype).transpose(-1, -2) @ given
            change = (given @ value[:, :, seen].transpose(-1, -2)).float()
            change = change.sub_(_grouped(taken, key, block)).mul_(weights).mul_(slopes).mul_(scaling).to(key.dtype)
            grads[0][:, :, block.start : block.stop] = _ungrouped(change @ key[:, :, seen], query, block)
            grads[1][:, :, seen] += change.transpose(-1, -2) @ _grouped(query, key, block)
        return grads[0], grads[1].to(key.dtype), grads[2].to(value.dtype), None, None, None, None


def _scores(
    query: Tensor,
    key: Tensor,
    masking: Masking,
    block: _Block,
    cap: float,
    scaling: float,
    window: int | None,
    *,
    slopes: bool = False,
) -> tuple[Tensor, Tensor]:
    """(rows, key_heads, group · queries, keys) capped scores, least where unseen, and if asked for their slopes."""
    squeezed = (_grouped(query, key, block) @ key[:, :, block.first : block.stop].transpose(-1, -2)).float()
    squeezed = squeezed.mul_(scaling / cap).tanh_()
    slope = 1 - squeezed.square() if slopes else squeezed
    hidden = ~masking.part(window, slice(block.start, block.stop), slice(block.first, block.stop))
    group = query.shape[1] // key.shape[1]
    scores = (squeezed * cap if slopes else squeezed.mul_(cap)).unflatten(2, (group, -1))
    scores.masked_fill_(hidden[:, :, None], torch.finfo(scores.dtype).min)
    return scores.flatten(2, 3), slope


def _cut(length: int, window: int | None) -> list[_Block]:
    stops = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [
        _Block(start, stop, 0 if window is None else max(0, start - window + 1))
        for start, stop in zip(range(0, length, BLOCK), stops, strict=True)
    ]


def _grouped(part: Tensor, key: Tensor, block: _Block) -> Tensor:
    """A block of (rows, heads, length, width) as (rows, key_heads, group · queries, width): a product a key head."""
    return part[:, :, block.start : block.stop].unflatten(1, (key.shape[1], -1)).flatten(2, 3)


def _ungrouped(part: Tensor, query: Tensor, block: _Block) -> Tensor:
    """The way back: (rows, heads, queries, width)."""
    return (
        part.unflatten(2, (-1, block.stop - block.start))
        .flatten(1, 2)
        .view(query.shape[0], query.shape[1], block.stop - block.start, -1)
    )
