"""Grouped by length: every record once per epoch, and micro-batches of a step take equally long on every process.

`megabatches` is the published rule, given the permutations; here they follow from the seed and the number of the epoch,
so a position of the order is a function of its number.
"""

from collections.abc import Mapping

import numpy as np

from mmcore.data.order.grouped import GroupedOrder
from mmcore.data.order.megabatches import Permutation, group


class ByLengthOrder(GroupedOrder):
    """Records of like length share a megabatch; with `modality` those with and without an image keep apart (LLaVA).

    Other arguments as for `GroupedOrder`.
    """

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        micro_batch: int,
        global_batch: int,
        *,
        modality: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(lengths, micro_batch, global_batch, seed=seed)
        self._modality = modality
        self._indices(0)  # complains about records without words before anything is trained

    def _arrange(self, permutation: Permutation) -> np.ndarray:
        return group(self._lengths, self._micro_batch, self._world, permutation, modality=self._modality)
