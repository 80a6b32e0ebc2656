"""Token sequences before and after splicing: what the collator plans on the CPU, so that the model needs no loop.

An encoder writes negative placeholder ids where something other than a word stands (an image, a region). `lay_out`
(`mmcore.language.splice`) expands them, pads or packs, and notes where every kind of feature goes; the model then
embeds the words, copies the features into their rows and knows which positions are supervised without asking the
device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmcore.contract.values import Encoded, Turn
from mmcore.errors import ShapeError

__all__ = ["IGNORE", "IMAGE", "REGION", "Encoded", "Location", "Sequences", "Turn", "with_positions_at_padding"]

IMAGE = -200
"""Placeholder id of an image, as in LLaVA."""
REGION = -300
"""Placeholder id of a region that becomes rows of its own (Griffon's second picture, GLaMM's box)."""
IGNORE = -100
"""Label of a position that is not learned."""


class Location(NamedTuple):
    """Where one sample lies in the tensors of `Sequences`."""

    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Sequences:
    """Spliced token rows, padded (one sample a row) or packed (several a row).

    Flat positions are `row * length + column`. Tensors live where the batch lives; `locations` stays on the CPU.
    """

    ids: Int[Tensor, "rows length"]
    """Vocabulary ids; 0 where a feature or padding stands."""
    valid: Bool[Tensor, "rows length"]
    """False at padding."""
    positions: Int[Tensor, "rows length"]
    """Rotary positions; they start again at every packed sample, and go on counting through padding on the right."""
    segments: Int[Tensor, "rows length"] | None
    """Number of the packed sample within its row, -1 at padding; None when every row is one sample."""
    slots: Mapping[str, Int[Tensor, " _"]]
    """Kind of feature ("image", "region", ...) -> flat positions of its rows, in sample order."""
    supervised: Int[Tensor, " targets"]
    """Flat positions whose output predicts a learned token (the position before it)."""
    targets: Int[Tensor, " targets"]
    """The token each of them has to predict."""
    locations: tuple[Location, ...]
    """Sample by sample."""
    found: Mapping[str, Int[Tensor, " _"]] = field(default_factory=dict)
    """Name of a watched vocabulary id ("[SEG]") -> flat positions where it stands, in sample order; the output that
    predicts it is the one at the position before."""
    kept: Mapping[str, Int[Tensor, " _"]] = field(default_factory=dict)
    """Kind -> which of its features have a place, for kinds that the maximum length cut; others have all of them."""
    cut: tuple[int, ...] = ()
    """Positions of each sample that the maximum length cut."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length."""
        rows, length = self.ids.shape
        return rows, length

    @property
    def padding(self) -> float:
        """Share of the positions that are padding; from the plan, not from the device."""
        rows, length = self.shape
        return 1.0 - sum(location.length for location in self.locations) / max(1, rows * length)


def with_positions_at_padding(sequences: Sequences) -> Sequences:
    """Positions that go on through the padding on the right, as published code without position ids counts them.

    Raises:
        ShapeError: rows hold several samples.
    """
    rows, length = sequences.shape
    if sequences.segments is not None:
        raise ShapeError("positions at padding are defined for one sample a row", do="turn packing off")
    positions = torch.arange(length, device=sequences.ids.device).expand(rows, -1)
    return replace(sequences, positions=positions)
