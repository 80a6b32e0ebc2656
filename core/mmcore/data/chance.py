"""What is drawn at random for a sample, in the order in which it is drawn: all of it from the sample's seed.

Behind one small protocol, so that recorded draws of the published code can be played back in their place.
"""

from typing import Protocol

import numpy as np


class Chance(Protocol):
    """The four kinds of draws that the published data sets make."""

    def one(self, count: int) -> int:
        """A number below `count`."""
        ...

    def some(self, count: int, most: int) -> list[int]:
        """`most` different numbers below `count` in random order; all of them in order where there are fewer."""
        ...

    def order(self, count: int) -> list[int]:
        """The numbers below `count`, shuffled."""
        ...

    def coin(self) -> bool:
        """True every other time."""
        ...


class Seeded:
    """Draws that follow from one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def one(self, count: int) -> int:
        """A number below `count`."""
        return int(self._rng.integers(count))

    def some(self, count: int, most: int) -> list[int]:
        """`most` different numbers below `count` in random order; all of them in order where there are fewer."""
        return self.order(count)[:most] if count >= most else list(range(count))

    def order(self, count: int) -> list[int]:
        """The numbers below `count`, shuffled."""
        return self._rng.permutation(count).tolist()

    def coin(self) -> bool:
        """True every other time."""
        return bool(self._rng.random() < 0.5)
