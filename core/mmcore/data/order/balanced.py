"""Ranks that take equally long: micro-batches change places so that those of one step cost alike.

Where a micro-batch comes from one source, a rank that drew boxes waits at every step for one that drew a hundred masks.
Within a window of some steps the micro-batches are sorted by what they cost and cut into steps:

    drawn      | a5 b1 | b1 a5 | b1 b1 | a5 a5 |     two ranks: every step lasts as its dearer one, 16 together
    balanced   | a5 a5 | b1 b1 | b1 b1 | a5 a5 |     12

Within a step they stand by cost as well, so that ranks take like ones at each turn, and the sums of several turns
differ by no more than the dearest and the cheapest do, however many ranks share the step. Which samples a window holds
stays as it was drawn, so shares, epochs and seeds do; of equally dear ones the order stays.
"""

import numpy as np

from mmcore.contract.protocols import Order
from mmcore.contract.values import Draw


class BalancedOrder:
    """Another order with its micro-batches rearranged.

    Args:
        inner: what is drawn.
        costs: source -> what a sample of it costs, any unit; sources without an entry cost 1.
        per_step: micro-batches of one optimiser step, over accumulation and ranks.
        window: steps among which micro-batches change places; with 1 every step keeps what it has.
        steps: of the run, so that the last window ends with it; None has no end.
    """

    def __init__(
        self,
        inner: Order,
        costs: dict[str, float],
        *,
        per_step: int,
        window: int = 1,
        steps: int | None = None,
    ) -> None:
        self._inner, self._costs = inner, costs
        self._per_step, self._window, self._steps = per_step, window, steps
        self._known: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def names(self) -> tuple[str, ...]:
        """As of the order that is rearranged."""
        return self._inner.names

    @property
    def seed(self) -> int:
        """As of the order that is rearranged."""
        return self._inner.seed

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        return self._inner.draws(self.drawn_as(m))

    def source(self, m: int) -> str:
        """The source of the first sample of global micro-batch `m`."""
        return self._inner.source(self.drawn_as(m))

    def cost(self, m: int) -> float:
        """What global micro-batch `m` costs."""
        return self._cost(self.drawn_as(m))

    def drawn_as(self, m: int) -> int:
        """The number at which the inner order draws what stands at `m`."""
        step, place = divmod(m, self._per_step)
        number, step = divmod(step, self._window)
        if self._known[0] != number:
            self._known = number, self._arranged(number)
        return int(self._known[1][step, place])

    def _arranged(self, number: int) -> np.ndarray:
        """(steps, micro-batches of a step): numbers of the inner order, as they stand in window `number`."""
        first = number * self._window
        steps = self._window if self._steps is None or first >= self._steps else min(self._window, self._steps - first)
        begin = first * self._per_step
        costs = np.array([self._cost(begin + i) for i in range(steps * self._per_step)])
        by_cost = np.argsort(-costs, kind="stable").reshape(steps, self._per_step)
        # Dear steps do not all come first: a step stands where the first of its micro-batches stood.
        arranged = by_cost[np.argsort(by_cost.min(1), kind="stable")]
        if steps < self._window:  # nothing is read beyond the end of a run; a longer one goes on as drawn
            rest = np.arange(steps * self._per_step, self._window * self._per_step)
            arranged = np.concatenate([arranged, rest.reshape(-1, self._per_step)])
        return begin + arranged

    def _cost(self, number: int) -> float:
        return sum(self._costs.get(draw.source, 1.0) for draw in self._inner.draws(number))


def waiting(order: Order, costs: dict[str, float], *, per_step: int, ranks: int, steps: int) -> float:
    """How much longer the dearest rank of a step takes than the mean, over some steps: 1 is no waiting.

    Args:
        order: what every rank draws.
        costs: as `BalancedOrder` takes them.
        per_step: micro-batches of a step.
        ranks: that share them.
        steps: how many are looked at, from the first.
    """
    loads = np.array(
        [sum(costs.get(draw.source, 1.0) for draw in order.draws(m)) for m in range(steps * per_step)]
    ).reshape(steps, per_step // ranks, ranks)
    by_rank = loads.sum(1)
    return float(by_rank.max(1).sum() / by_rank.mean(1).sum())
