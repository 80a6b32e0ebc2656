"""Grouped by task and length: a step sees one task only, and its micro-batches take equally long (Griffon).

The published sampler (griffon/train/trainer.py of jefferyZhan/Griffon) knows three tasks, general, localisation and
text only: it permutes and cuts each apart, leaves the last megabatch of each out, whole or not, and shuffles the others
together; with a single task it keeps every record. Here the same rule takes any number of tasks, where the published
code stops without all three and leaves a fourth out. Records without an image are a task of their own.
"""

from collections.abc import Mapping

import numpy as np

from mmcore.data.order.grouped import GroupedOrder
from mmcore.data.order.megabatches import Permutation, check_lengths, group, group_kinds
from mmcore.errors import DataError


class ByTaskOrder(GroupedOrder):
    """Records of like length and of one task share a megabatch; all but the last megabatch of each task are drawn.

    Args:
        lengths: see `GroupedOrder`.
        tasks: the task of each source's records with an image.
        micro_batch: see `GroupedOrder`.
        global_batch: see `GroupedOrder`.
        seed: see `GroupedOrder`.

    Raises:
        DataError: also where no task has more records than one global batch.
    """

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        tasks: Mapping[str, str],
        micro_batch: int,
        global_batch: int,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(lengths, micro_batch, global_batch, seed=seed)
        check_lengths(self._lengths)
        of_source = np.array([list(dict.fromkeys(tasks.values())).index(tasks[name]) for name in self.names])
        of_record = np.repeat(of_source, np.diff(self._starts))
        of_record[self._lengths < 0] = len(of_source)
        self._kinds = [np.flatnonzero(of_record == task) for task in np.unique(of_record)]
        if len(self._kinds) > 1 and not any(len(kind) > global_batch for kind in self._kinds):
            raise DataError(
                f"no task has more than the {global_batch} records of one global batch, so nothing would be drawn",
                where=", ".join(self.names),
                do="make global_batch smaller, or choose another data.mixture.kind",
            )

    def _arrange(self, permutation: Permutation) -> np.ndarray:
        lengths, batch, world = np.abs(self._lengths), self._micro_batch, self._world
        if len(self._kinds) == 1:
            return group(lengths, batch, world, permutation, modality=False)
        return group_kinds(self._kinds, lengths, batch, world, permutation, keep_rest=False)
