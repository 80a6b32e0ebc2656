"""Kind, then source, then record: the published draw of GLaMM.

An optimiser step draws a kind of data (captions, regions, segmentation) by weight, and all its micro-batches are of
that kind; each sample draws a source of the kind by the sources' rates, and a record of it, independently (train.py and
the Hybrid data sets of mbzuai-oryx/groundingLMM).
"""

from collections.abc import Iterator, Mapping

from mmcore.base.hashing import mix, name_key
from mmcore.contract.values import Draw
from mmcore.data.order.choices import Independent
from mmcore.data.order.sequences import RecordSequence
from mmcore.data.order.weighted import check_weights
from mmcore.errors import RecipeError


class ByKindOrder:
    """The draws of every micro-batch of a run.

    Args:
        sizes: records of each source.
        rates: share of each source within its kind, any scale; 0 leaves it out.
        kinds: the kind of each source.
        weights: share of the optimiser steps of each kind, any scale; a kind without sources is never drawn.
        micro_batch: samples per micro-batch of each source, one number within a kind.
        batches_per_step: micro-batches of one optimiser step, over accumulation and processes.
        kinds_per_step: how many kinds a step draws, its micro-batches taking turns.
        seed: everything follows from it.

    Raises:
        RecipeError: no source can be drawn, a number is not usable, or a kind has two micro-batches.
        DataError: a source with a rate has no records.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        rates: Mapping[str, float],
        kinds: Mapping[str, str],
        weights: Mapping[str, float],
        micro_batch: Mapping[str, int],
        *,
        batches_per_step: int,
        kinds_per_step: int = 1,
        seed: int = 0,
    ) -> None:
        check_weights(sizes, rates, micro_batch)
        self.names = tuple(name for name in sizes if rates[name] > 0 and weights[kinds[name]] > 0)
        if not self.names:
            raise RecipeError("no kind that is drawn has a source", where="data.mixture.weights", known=weights)
        self.seed = seed
        self._per_step, self._kinds_per_step = batches_per_step, kinds_per_step
        members = {kind: [name for name in self.names if kinds[name] == kind] for kind in weights}
        active = [kind for kind, names in members.items() if names]
        key = mix(seed, name_key("kinds"))
        self._kind_choice = Independent([weights[kind] for kind in active], key)
        self._micro_batches = [_one_size(kind, {name: micro_batch[name] for name in members[kind]}) for kind in active]
        self._source_choices = [
            Independent([rates[name] for name in members[kind]], mix(key, name_key(kind))) for kind in active
        ]
        self._sequences = [
            [RecordSequence(name, range(sizes[name]), False, mix(seed, name_key(name))) for name in members[kind]]
            for kind in active
        ]

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        return tuple(sequence.draw(number) for sequence, number in self._picks(m))

    def source(self, m: int) -> str:
        """The source of the first sample of global micro-batch `m`."""
        return next(self._picks(m))[0].source

    def _picks(self, m: int) -> Iterator[tuple[RecordSequence, int]]:
        step, turn = divmod(m, self._per_step)
        kind, _ = self._kind_choice.pick(step * self._kinds_per_step + turn % self._kinds_per_step)
        size = self._micro_batches[kind]
        for number in range(m * size, (m + 1) * size):
            source, _ = self._source_choices[kind].pick(number)
            yield self._sequences[kind][source], number


def _one_size(kind: str, sizes: Mapping[str, int]) -> int:
    if len(set(sizes.values())) > 1:
        raise RecipeError(
            f"the sources of kind {kind!r} share a batch and need one micro_batch, not {dict(sizes)}",
            where="data.sources",
            do="give them the same micro_batch",
        )
    return next(iter(sizes.values()))
