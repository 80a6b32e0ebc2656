"""Which position sees which: made once per forward pass from the plan of the batch, shared by all layers.

full or right-padded rows   causal flag only, the fast kernel; padding sees words, words never see padding
left-padded, packed         unpacked into one right-padded row per sample for the kernel, and put back after it;
                            a mask (rows, 1, queries, keys) where one sample is so long that this would cost more;
                            with "varlen" the boundaries of the samples
sliding window              the mask of that window, per layer (Gemma 2 and Qwen 2 alternate)
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmcore.language.flex import block_mask
from mmcore.language.sequence import Sequences

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
