"""Choosing among shares at pick k, as a function of k: independently, or each share met to within one pick."""

from collections.abc import Sequence

import numpy as np

from mmcore.base.hashing import fraction


class Independent:
    """Pick `k` by hash, whatever was picked before."""

    def __init__(self, shares: Sequence[float], key: int) -> None:
        self.edges = np.cumsum(np.asarray(shares, np.float64) / np.sum(shares))
        """Where each choice ends in [0, 1]."""
        self.edges[-1] = 1.0
        self._key = key

    def pick(self, k: int) -> tuple[int, int]:
        """The choice, and a number that this choice has at no other `k`."""
        if len(self.edges) == 1:
            return 0, k
        return int(np.searchsorted(self.edges, fraction(self._key, k), side="right")), k


class Stratified:
    """Choice i falls due once in each stretch of 1 / share picks, at a random moment of the stretch.

    So the share is met to within one pick at any time, and time order is known without a table: event n of a choice
    happens at (n + jitter) / share, and pick k is the k-th event of all choices together.
    """

    def __init__(self, shares: Sequence[float], key: int) -> None:
        total = float(np.sum(shares))
        self._shares = [share / total for share in shares]
        self._key = key

    def pick(self, k: int) -> tuple[int, int]:
        """The choice, and how often it was picked before."""
        if len(self._shares) == 1:
            return 0, k
        # At time t between t - choices and t + choices events have happened, so begin that much earlier and walk.
        start = float(max(0, k - len(self._shares) - 1))
        counts = [self._count(choice, start) for choice in range(len(self._shares))]
        due = [self._time(choice, count) for choice, count in enumerate(counts)]
        missing = k - sum(counts)
        assert missing >= 0
        while True:
            choice = min(range(len(due)), key=due.__getitem__)
            if missing == 0:
                return choice, counts[choice]
            missing -= 1
            counts[choice] += 1
            due[choice] = self._time(choice, counts[choice])

    def _count(self, choice: int, time: float) -> int:
        """How many events of this choice happened before `time`."""
        count = max(0, int(time * self._shares[choice]) - 1)
        while self._time(choice, count) < time:
            count += 1
        return count

    def _time(self, choice: int, number: int) -> float:
        return (number + fraction(self._key, choice, number)) / self._shares[choice]
