"""One source per micro-batch: the published order of GLEE, with landscape and portrait images apart.

A micro-batch is found by three picks, each of which also says how often its choice was picked before:

    source   so that its share of samples is proportional to its weight
    group    landscape or portrait, in proportion to the records of the source (only with aspect groups)
    record   the next one of that source and group
"""

from collections.abc import Iterator
from typing import Any

from mmcore.base.hashing import mix, name_key
from mmcore.data.order.sequences import RecordSequence
from mmcore.data.order.weighted import WeightedOrder


class SourcePerBatchOrder(WeightedOrder):
    """One source, then one of its groups, for the whole micro-batch; arguments as for `WeightedOrder`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups = [list(groups.values()) for groups in self._sequences.values()]
        self._sizes = list(self.micro_batch.values())
        rates = [self.weights[name] / self.micro_batch[name] for name in self.names]
        self._source_choice = self._choice(rates, self._key)
        self._group_choices = [
            self._choice([sequence.size for sequence in groups], mix(self._key, name_key(name)))
            for name, groups in zip(self.names, self._groups, strict=True)
        ]

    def _picks(self, m: int) -> Iterator[tuple[RecordSequence, int]]:
        source, before = self._source_choice.pick(m)
        group, before = self._group_choices[source].pick(before)
        size = self._sizes[source]
        return ((self._groups[source][group], before * size + slot) for slot in range(size))
