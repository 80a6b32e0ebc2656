"""Capped, causal attention by torch's flex attention: one compiled kernel that knows the cap and who sees whom.

The functions that flex attention asks for scores and masks are told apart by their number of arguments, so they are
plain functions without decorators.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    *,
    cap: float,
    scaling: float,
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """Attention with scores squeezed into +-cap.

    Args:
        query: (rows, heads, length, width).
        key: fewer heads than queries are shared by groups of them.
        value: as `key`.
        mask: from `block_mask`.
        cap: largest size of a score.
        scaling: factor on the products.
        kernel: torch's `flex_attention`, compiled when None.
    """
    shared = query.shape[1] != key.shape[1]
    run = kernel or _compiled()
    return run(query, key, value, score_mod=_squeeze(cap), block_mask=mask, scale=scaling, enable_gqa=shared)


def block_mask(order: Tensor, segments: Tensor | None, valid: Tensor | None, window: int | None) -> Any:
    """Who sees whom among the positions of rows, in the form that flex attention skips blocks by.

    Args:
        order: (1, length), counting up.
        segments: (rows, length) packed sample of each position; only the same is seen.
        valid: (rows, length) False at padding, which nobody sees; a query that would see nothing sees itself.
        window: keys a query sees, itself included; None for all before it.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    lonely = None if valid is None else _without_keys(valid, window)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head
        seen = query >= key
        if window is not None:
            seen = seen & (query - key < window)
        if segments is not None:
            seen = seen & (segments[row, query] == segments[row, key])
        if valid is not None and lonely is not None:
            seen = (seen & valid[row, key]) | ((query == key) & lonely[row, query])
        return seen

    by_row = next((part for part in (segments, valid) if part is not None), None)
    rows, length = None if by_row is None else len(by_row), order.shape[1]
    return create_block_mask(sees, rows, None, length, length, str(order.device))


def _without_keys(valid: Tensor, window: int | None) -> Tensor:
    """Positions with nothing but padding at and before them, as far as the window reaches."""
    seen = valid.cumsum(1)
    if window is not None:
        seen = seen - torch.nn.functional.pad(seen[:, :-window], (window, 0))
    return seen == 0


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@lru_cache
def _squeeze(cap: float) -> Callable[..., Tensor]:
    def squeeze(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del row, head, query, key
        return cap * torch.tanh(score / cap)

    return squeeze
