"""The records of one source, or of one orientation in it, as an endless sequence of draws."""

from collections.abc import Mapping

import numpy as np

from mmcore.base.hashing import mix, name_key, permuted
from mmcore.contract.values import Draw
from mmcore.data.select import Select
from mmcore.errors import DataError


class RecordSequence:
    """Draw number n of some records of one source.

    Args:
        source: its name.
        records: positions in the source.
        whole_epochs: every record once before any repeats; False draws them independently.
        key: what the random numbers follow from.
    """

    def __init__(self, source: str, records: Select | range, whole_epochs: bool, key: int) -> None:
        self.source = source
        self._records = records
        self._whole_epochs = whole_epochs
        self._key = key
        self.size = len(records)

    def draw(self, number: int) -> Draw:
        """Draw `number` of this sequence; its seed is as unique as the number."""
        if self._whole_epochs:
            epoch, offset = divmod(number, self.size)
            index = permuted(offset, self.size, mix(self._key, 2, epoch))
        else:
            index = mix(self._key, 1, number) % self.size
        return Draw(self.source, self._records[index], mix(self._key, 3, number))


Sequences = Mapping[str, Mapping[int, RecordSequence]]
"""Source -> group -> its records."""


def sequences_of(
    name: str, size: int, column: np.ndarray | None, whole_epochs: bool, seed: int
) -> dict[int, RecordSequence]:
    """The sequences of one source by aspect group; a single one, 0, where `column` is None.

    Args:
        name: of the source.
        size: its records.
        column: (records,) uint8, the group of each record.
        whole_epochs: see `RecordSequence`.
        seed: of the run.

    Raises:
        DataError: the column belongs to another number of records.
    """
    key = mix(seed, name_key(name))
    if column is None:
        return {0: RecordSequence(name, range(size), whole_epochs, key)}
    if len(column) != size:
        raise DataError(f"source {name!r} has {size} records but {len(column)} aspect groups", where="aspect_groups()")
    return {
        int(group): RecordSequence(name, Select(column, int(group)), whole_epochs, mix(key, int(group)))
        for group in np.unique(column)
    }
