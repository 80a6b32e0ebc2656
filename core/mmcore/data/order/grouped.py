"""What orders share that arrange a whole epoch in megabatches of one global batch, whatever the number of processes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from mmcore.base.hashing import mix, name_key
from mmcore.contract.values import Draw
from mmcore.data.order.megabatches import Permutation, Permutations
from mmcore.errors import DataError, RecipeError


class GroupedOrder(ABC):
    """The draws of every micro-batch, each record at most once per epoch; a subclass arranges an epoch.

    `global_batch / micro_batch` micro-batches make one megabatch however many processes share them. The last megabatch
    of an epoch is filled with the epoch's first records, as the published loaders do for the processes to stay even.

    Args:
        lengths: (records,) words of each source, negative without an image.
        micro_batch: samples per micro-batch.
        global_batch: samples per optimiser step.
        seed: everything follows from it.

    Raises:
        DataError: there are no records, or one has no words.
        RecipeError: the global batch is no multiple of the micro-batch.
    """

    def __init__(
        self, lengths: Mapping[str, np.ndarray], micro_batch: int, global_batch: int, *, seed: int = 0
    ) -> None:
        if global_batch % micro_batch:
            raise RecipeError(f"global_batch {global_batch} is not a multiple of micro_batch {micro_batch}")
        self.names = tuple(lengths)
        self.seed = seed
        self._lengths = np.concatenate([np.asarray(column, np.int64) for column in lengths.values()] or [np.zeros(0)])
        if not len(self._lengths):
            raise DataError("there are no records to draw from", where=", ".join(lengths), do="see `mmcore data check`")
        self._starts = np.cumsum([0, *(len(column) for column in lengths.values())])
        self._micro_batch, self._world = micro_batch, global_batch // micro_batch
        self._key = mix(seed, name_key("lengths"))
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @abstractmethod
    def _arrange(self, permutation: Permutation) -> np.ndarray:
        """Indices of an epoch's records in order; as many in every epoch."""

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        per_epoch = len(self._indices(max(self._epoch[0], 0)))
        epoch, first = divmod(m * self._micro_batch, per_epoch)
        records = self._indices(epoch)[first : first + self._micro_batch]
        number = m * self._micro_batch
        return tuple(self._draw(int(record), number + slot) for slot, record in enumerate(records))

    def source(self, m: int) -> str:
        """The source of the first sample of global micro-batch `m`."""
        return self.draws(m)[0].source

    def _draw(self, record: int, number: int) -> Draw:
        source = int(np.searchsorted(self._starts, record, side="right")) - 1
        return Draw(self.names[source], record - int(self._starts[source]), mix(self._key, 3, number))

    def _indices(self, epoch: int) -> np.ndarray:
        """All positions of one epoch, the last megabatch filled up; the newest epoch is kept."""
        if self._epoch[0] != epoch:
            order = self._arrange(Permutations(mix(self._key, 2, epoch)))
            size = self._micro_batch * self._world
            self._epoch = epoch, np.resize(order, -(-len(order) // size) * size)
        return self._epoch[1]
