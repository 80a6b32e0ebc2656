"""Which position sees which, for padded rows, packed rows and decoding, inside unpatched transformers models.

transformers hands every attention layer to a function registered by name and passes unknown keyword arguments of the
model's forward on to it. Ours takes a `Masking`: made once per forward pass from the plan of the batch, shared by all
layers. A function without a registered mask gets none, so the model neither builds masks of its own nor asks the device
whether there is padding (which would wait for it in every step).

    full or right-padded rows   causal flag only, the fast kernel; padding sees words, words never see padding
    left-padded, packed         unpacked into one right-padded row per sample for the kernel, and put back after it;
                                a mask (rows, 1, queries, keys) where one sample is so long that this would cost more;
                                with "varlen" the boundaries of the samples
    sliding window              the mask of that window, per layer (Gemma 2 and Qwen 2 alternate)
    capped scores               Gemma 2; never as a whole matrix (`mmcore.language.capped`)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mmcore.errors import RecipeError
from mmcore.language.capped import FEW, capped_attention
from mmcore.language.flex import block_mask
from mmcore.language.sequence import Sequences

NAME = "mmcore_masking"
"""Under which name transformers knows `attend`."""
Kernel = Literal["sdpa", "eager", "varlen"]


class Unpacking(NamedTuple):
    """How rows are unpacked into samples, and packed again."""

    samples: Int[Tensor, "samples longest"]
    """Flat position of every sample's positions; behind its end its last one again, which nobody before it sees."""
    rows: Int[Tensor, "rows length"]
    """Where each position of the rows then lies; padding takes any."""


@dataclass
class Masking:
    """What each query sees. Masks are made on demand and kept for the other layers."""

    order: Int[Tensor, "#rows queries"]
    """Where each query stands in its row; distances count for causality and windows."""
    key_order: Int[Tensor, "#rows keys"]
    segments: Int[Tensor, "rows keys"] | None = None
    """Packed sample of each position; only the same sample is seen."""
    valid: Bool[Tensor, "rows keys"] | None = None
    """Keys that are no padding; None when causality alone hides it."""
    longest: int = 0
    """Positions of the longest sample: windows at least as wide hide nothing."""
    boundaries: tuple[Tensor, int] | None = None
    """First flat position of every sample and gap, and the longest of them, for the variable-length kernel."""
    unpacked: Unpacking | None = None
    """Samples get rows of their own for the kernel; everything above is then about those."""
    kernel: Kernel = "sdpa"
    _masks: dict[int | None, Tensor] = field(default_factory=dict)
    _flex: dict[int | None, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether queries and keys are the same positions, as in training and when a prompt is read."""
        return self.order is self.key_order

    def part(self, window: int | None, queries: slice, keys: slice) -> Bool[Tensor, "#rows 1 queries keys"]:
        """A part of the mask, made anew: True where a query sees a key."""
        return self._make(window, queries, keys)

    def flex_mask(self, window: int | None) -> Any:
        """The same for torch's flex attention, kept for the other layers."""
        if window not in self._flex:
            self._flex[window] = block_mask(self.order, self.segments, self.valid, window)
        return self._flex[window]

    def mask(self, window: int | None) -> Bool[Tensor, "rows 1 queries keys"] | None:
        """True where a query sees a key; None when plain causal order says it all."""
        if window is not None and window >= self.longest:
            window = None
        if window is None and self.segments is None and self.valid is None:
            return None
        if window not in self._masks:
            self._masks[window] = self._make(window)
        return self._masks[window]

    def _make(self, window: int | None, queries: slice = slice(None), keys: slice = slice(None)) -> Tensor:
        distance = self.order[:, queries, None] - self.key_order[:, None, keys]
        seen = distance >= 0
        if window is not None:
            seen = seen & (distance < window)
        if self.segments is not None:
            seen = seen & (self.segments[:, queries, None] == self.segments[:, None, keys])
        if self.valid is not None:
            seen = seen & self.valid[:, None, keys]
        # A padded query that sees nothing would divide by zero; it looks at itself instead, and nobody looks at it.
        lonely = ~seen.any(-1, keepdim=True)
        return (seen | (lonely & (distance == 0)))[:, None]


def masking_of(sequences: Sequences, *, kernel: Kernel = "sdpa", published_padding: bool = False) -> Masking:
    """The masking of a whole batch (training, or reading a prompt).

    Args:
        sequences: the plan; what needs no mask is seen on the CPU.
        kernel: "sdpa" runs everywhere; "eager" writes the matrices out, in float32; "varlen" is torch's
            variable-length flash kernel (CUDA, half precision).
        published_padding: also let padding on the right see the words only, as the published attention with a padding
            mask does; needed by those who read hidden states at padding.
    """
    rows, length = sequences.shape
    longest = max((location.length for location in sequences.locations), default=0)
    shared = sequences.segments is not None
    left = not shared and any(location.start for location in sequences.locations)
    boundaries = _boundaries(sequences) if kernel == "varlen" and (left or shared) else None
    if left or (shared and len(sequences.locations) * longest**2 <= rows * length**2):
        order, unpacked = torch.arange(longest, device=sequences.ids.device)[None], _unpack(sequences, longest)
        return Masking(order, order, longest=longest, unpacked=unpacked, boundaries=boundaries, kernel=kernel)
    order = torch.arange(length, device=sequences.ids.device)[None]
    hide = published_padding and not shared and sequences.padding > 0
    return Masking(
        order,
        order,
        segments=sequences.segments,
        valid=sequences.valid if hide else None,
        longest=length if hide else longest,
        boundaries=boundaries,
        kernel=kernel,
    )


def _unpack(sequences: Sequences, longest: int) -> Unpacking:
    """Made on the device from two numbers a sample: so small a copy does not wait for it."""
    length, device = sequences.shape[1], sequences.ids.device
    places = [(place.row * length + place.start, place.length) for place in sequences.locations]
    first, count = torch.tensor(places).to(device, non_blocking=True).unbind(1)
    steps = torch.arange(longest, device=device).minimum(count[:, None] - 1)
    samples = first[:, None] + steps
    numbers = torch.arange(len(places), device=device)[:, None] * longest + steps
    rows = torch.zeros(sequences.ids.numel(), dtype=torch.int64, device=device)
    # Positions behind a sample's end repeat its last one, here and there alike, so it does not matter which is written.
    rows.scatter_(0, samples.flatten(), numbers.flatten())
    return Unpacking(samples, rows.view(sequences.shape))


def _boundaries(sequences: Sequences) -> tuple[Tensor, int]:
    """Samples and the padding between them as stretches of the flat batch; padding sees itself only."""
    rows, length = sequences.shape
    places = np.array(sequences.locations, np.int64).reshape(-1, 3)
    starts = places[:, 0] * length + places[:, 1]
    edges = np.unique(np.concatenate([np.arange(rows + 1) * length, starts, starts + places[:, 2]]))
    stretches = torch.from_numpy(edges.astype(np.int32)).to(sequences.ids.device, non_blocking=True)
    return stretches, int(np.diff(edges).max(initial=0))


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
