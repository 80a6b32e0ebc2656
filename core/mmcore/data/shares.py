"""A share of everything that several sources have together, the same in every run; and some records of a file.

Which stay follows the published "balance" files of Griffon (griffon/datasets/mix.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mmcore.errors import DataError

SEED = 48
"""Of the published shuffle; the share of a list is the same in every run."""


def kept(total: int, share: float) -> Int[np.ndarray, " kept"]:
    """The positions that stay of so many records laid end to end, in the published order."""
    order = np.arange(total)
    if share == 1:
        return order
    np.random.default_rng(SEED).shuffle(order)
    return order[: int(total * share)]


def split(sizes: Mapping[str, int], share: float) -> dict[str, Int[np.ndarray, " _"]]:
    """The positions that stay of each source of a list, in the order of its file."""
    starts = np.cumsum([0, *sizes.values()])
    chosen = np.sort(kept(int(starts[-1]), share))
    return {name: chosen[(chosen >= low) & (chosen < high)] - low for name, low, high in zip(sizes, starts, starts[1:])}


def drawn(records: Mapping[str, Any], lists: Mapping[str, tuple[str, float]]) -> dict[str, Any]:
    """All records; of sources whose list is not taken whole, only what its share leaves of each.

    Args:
        records: source -> its records.
        lists: source -> its list and the list's share, for those of such lists.
    """
    found = dict(records)
    for listed in set(lists.values()):
        together = {name: len(records[name]) for name, one in lists.items() if one == listed}
        found |= {name: Part(records[name], places) for name, places in split(together, listed[1]).items()}
    return found


class Part:
    """Some records of a file, in the place of all of them.

    Args:
        records: all of them: `Scenes`, or conversations.
        positions: of those that stay.
    """

    def __init__(self, records: Any, positions: Int[np.ndarray, " kept"]) -> None:
        self.records, self.positions = records, positions
        self.index = records.index

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Any:
        """Record `position` of those that stay."""
        return self.records[int(self.positions[position])]

    @property
    def fingerprint(self) -> str:
        """Content hash of the file, and how many stay."""
        return f"{self.records.fingerprint}+{len(self)}"

    def unusable(self, position: int) -> bool:
        """Whether record `position` cannot be used."""
        return self.records.unusable(int(self.positions[position]))

    def problems(self) -> Iterator[DataError]:
        """What is wrong with the whole file."""
        return iter(self.records.problems())

    def left_out(self) -> Mapping[str, int]:
        """How much of the whole file cannot be used as it is."""
        return self.records.left_out()

    def lengths(self) -> Int[np.ndarray, " kept"]:
        """Of conversations: words, negative without a picture."""
        return np.asarray(self.records.lengths())[self.positions]

    def num_boxes(self) -> Int[np.ndarray, " kept"]:
        """Of records with boxes."""
        return np.asarray(self.records.num_boxes())[self.positions]

    def categories(self) -> Sequence[str]:
        """Every class of the file."""
        return self.records.categories()
