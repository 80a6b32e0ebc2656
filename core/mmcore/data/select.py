"""The k-th marked record of millions, without a list of the marked ones.

A boolean or uint8 column per record is memory-mapped; what is kept is one running count per block of records, so
eleven million records cost some twenty kilobytes, and a lookup reads one block.
"""

import numpy as np

BLOCK = 4096
"""Records per running count; a lookup scans this many bytes."""


class Select:
    """Positions at which `column == value`, addressable by their number among themselves."""

    def __init__(self, column: np.ndarray, value: int = 1) -> None:
        self._column = column
        self._value = value
        counts = [
            np.count_nonzero(np.asarray(column[start : start + BLOCK]) == value)
            for start in range(0, len(column), BLOCK)
        ]
        self._before = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, number: int) -> int:
        """The position of marked record `number`, counted from 0.

        Raises:
            IndexError: there are not that many.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        block = int(np.searchsorted(self._before, number, side="right")) - 1
        start = block * BLOCK
        marked = np.flatnonzero(np.asarray(self._column[start : start + BLOCK]) == self._value)
        return start + int(marked[number - self._before[block]])
