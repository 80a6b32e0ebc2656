"""What orders by weight share: active sources, their record sequences, and independent or stratified choices.

With independent choices every pick is a draw by hash, which is the published rule of GLEE (reference sampler: record
weight proportional to ratio / size, full buckets emitted). In whole epochs, choices are stratified: each falls due once
in every stretch of 1 / share picks, at a random moment of it, so how often it was picked before has a closed form, and
records come from a permutation of the source that is a function too.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mmcore.base.hashing import mix, name_key
from mmcore.contract.values import Draw
from mmcore.data.order.choices import Independent, Stratified
from mmcore.data.order.sequences import RecordSequence, Sequences, sequences_of
from mmcore.errors import DataError, RecipeError


class WeightedOrder:
    """The draws of every micro-batch of a run; a subclass says how a micro-batch is put together.

    Args:
        sizes: records of each source.
        weights: share of the samples, any scale; a weight of 0 leaves the source out.
        micro_batch: samples per micro-batch of each source.
        groups: (records,) uint8 per source, records of one micro-batch share a value; None, or None for a source,
            leaves records ungrouped.
        whole_epochs: go through each source before any of its records repeats; False draws records independently.
        seed: everything follows from it.

    Raises:
        RecipeError: no source has a weight, or a weight or size is no usable number.
        DataError: a source with a weight has no records.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        micro_batch: Mapping[str, int],
        groups: Mapping[str, np.ndarray | None] | None = None,
        *,
        whole_epochs: bool = False,
        seed: int = 0,
    ) -> None:
        check_weights(sizes, weights, micro_batch)
        self.names = tuple(name for name in sizes if weights[name] > 0)
        self.weights = {name: weights[name] / sum(weights.values()) for name in self.names}
        self.micro_batch = {name: micro_batch[name] for name in self.names}
        self.seed = seed
        self._choice = Stratified if whole_epochs else Independent
        self._key = mix(seed, name_key("order"))
        self._sequences: Sequences = {
            name: sequences_of(name, sizes[name], (groups or {}).get(name), whole_epochs, seed) for name in self.names
        }

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        return tuple(sequence.draw(number) for sequence, number in self._picks(m))

    def source(self, m: int) -> str:
        """The source of global micro-batch `m` (of its first sample, when sources mix)."""
        return next(iter(self._picks(m)))[0].source

    def _picks(self, m: int) -> Iterator[tuple[RecordSequence, int]]:
        raise NotImplementedError


def check_weights(sizes: Mapping[str, int], weights: Mapping[str, float], micro_batch: Mapping[str, int]) -> None:
    """Refuse what nothing can be drawn from.

    Raises:
        RecipeError, DataError: see `WeightedOrder`.
    """
    for other, values in (("weights", weights), ("micro_batch", micro_batch)):
        missing = set(sizes) - set(values)
        if missing:
            raise RecipeError(f"{other} says nothing about {sorted(missing)}", known=values)
    active = [name for name in sizes if weights[name] > 0]
    if not active:
        raise RecipeError("no data source has a weight above 0", where="data.sources", known=sizes)
    for name in sizes:
        if not 0 <= weights[name] < math.inf:
            raise RecipeError(f"weight {weights[name]} is not a share", where=f"data.sources.{name}.weight")
    for name in active:
        if sizes[name] < 1:
            raise DataError(
                f"source {name!r} has no records to draw from",
                where=f"data.sources.{name}",
                do="see `mmcore data check`, or leave it out with --sources",
            )
        if micro_batch[name] < 1:
            raise RecipeError(f"micro-batch {micro_batch[name]} is not positive", where=f"data.sources.{name}")
