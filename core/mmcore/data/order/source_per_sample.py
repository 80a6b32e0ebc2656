"""A source for every sample: micro-batches mix the sources by weight; orientations stay apart if asked."""

from collections.abc import Iterator
from typing import Any

from mmcore.base.hashing import mix
from mmcore.data.order.sequences import RecordSequence
from mmcore.data.order.weighted import WeightedOrder
from mmcore.errors import RecipeError


class SourcePerSampleOrder(WeightedOrder):
    """One group for the whole micro-batch, then a source for each of its samples.

    Arguments as for `WeightedOrder`.

    Raises:
        RecipeError: also where sources have micro-batches of different sizes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if len(set(self.micro_batch.values())) > 1:
            raise RecipeError(
                f"sources that mix within a batch need one micro-batch size, not {self.micro_batch}",
                where="data.mixture",
                do="give all sources the same micro_batch, or keep one source per batch",
            )
        self._size = next(iter(self.micro_batch.values()))
        groups = sorted({group for source in self._sequences.values() for group in source})
        self._members, shares = [], []
        for group in groups:
            members = {name: source[group] for name, source in self._sequences.items() if group in source}
            self._members.append(list(members.values()))
            shares.append([self._weight(name, sequence) for name, sequence in members.items()])
        self._group_choice = self._choice([sum(share) for share in shares], self._key)
        self._source_choices = [
            self._choice(share, mix(self._key, group)) for group, share in zip(groups, shares, strict=True)
        ]

    def _weight(self, name: str, sequence: RecordSequence) -> float:
        return self.weights[name] * sequence.size / sum(group.size for group in self._sequences[name].values())

    def _picks(self, m: int) -> Iterator[tuple[RecordSequence, int]]:
        group, before = self._group_choice.pick(m)
        for slot in range(self._size):
            source, number = self._source_choices[group].pick(before * self._size + slot)
            yield self._members[group][source], number
