"""A loss far outside what it was lately: finite, and all the same the sign of a bad batch or of a run that falls apart.

The measure is that of the run itself: the median of the last losses and the median distance to it, which a single
spike moves neither of. A mixture whose sources have losses of different size has a wide spread and is judged by it.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 64
"""Steps that are remembered."""
NEEDED = 16
"""Steps before anything is judged: the first losses of a run fall fast."""
SPREADS = 20.0
"""How many spreads above the median a loss must be to count as a spike; nothing that training does by itself."""
_LEAST_SPREAD = 0.25
"""The spread is taken to be at least this share of the median, so that a loss that hardly moves may move."""


class Recent:
    """The losses of the last steps.

    Args:
        losses: those before a resume.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, WINDOW)

    def is_spike(self, loss: float) -> bool:
        """Whether a finite loss is far above those of the last steps.

        >>> recent = Recent([2.0, 2.1, 1.9, 2.2] * 8)
        >>> recent.is_spike(6.0), recent.is_spike(1e8)
        (False, True)
        """
        if len(self.losses) < NEEDED:
            return False
        middle, spread = self._measure()
        return loss > middle + SPREADS * max(spread, _LEAST_SPREAD * abs(middle))

    def add(self, loss: float) -> None:
        """Remember the loss of a step."""
        self.losses.append(loss)

    def describe(self) -> str:
        """The measure, for a message."""
        middle, spread = self._measure()
        return f"over the last {len(self.losses)} steps its median was {middle:.4g}, its spread {spread:.2g}"

    def _measure(self) -> tuple[float, float]:
        middle = median(self.losses)
        return middle, 1.4826 * median(abs(loss - middle) for loss in self.losses)  # as a standard deviation
