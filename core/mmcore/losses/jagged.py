"""Rows that belong to images, laid end to end or padded to the longest image, so that one product serves a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def to_device(values: object, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Host numbers as a tensor on `device`, without making the device wait."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Jagged:
    """Where the rows of each image are. Image i owns the next `counts[i]` rows.

    Args:
        counts: rows of each image, host numbers.
        device: where the row indices live.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self.counts = tuple(counts)
        self.total = sum(self.counts)
        self.width = max(self.counts, default=0)
        self.full = self.total == self.width * len(self.counts)
        self.images: Int[Tensor, " rows"] = to_device([b for b, n in enumerate(self.counts) for _ in range(n)], device)
        """Image of each row."""
        self.slots: Int[Tensor, " rows"] = to_device([i for n in self.counts for i in range(n)], device)
        """Position of each row inside its image."""

    @property
    def starts(self) -> tuple[int, ...]:
        """First row of each image."""
        return tuple(sum(self.counts[:b]) for b in range(len(self.counts)))

    def pad(self, rows: Float[Tensor, "sets rows size"]) -> Float[Tensor, "sets batch width size"]:
        """Rows laid end to end to one block per image; missing rows are zero."""
        sets, _, size = rows.shape
        if not self.full:
            empty = rows.new_zeros(sets, len(self.counts) * self.width, size)
            rows = empty.index_copy(1, self.images * self.width + self.slots, rows)
        return rows.reshape(sets, len(self.counts), self.width, size)

    def unpad(self, blocks: Float[Tensor, "sets batch width size"]) -> Float[Tensor, "sets rows size"]:
        """The inverse of `pad`."""
        rows = blocks.flatten(1, 2)
        return rows if self.full else rows.index_select(1, self.images * self.width + self.slots)
