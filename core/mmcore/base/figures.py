"""How a metric is written for people: fractions in percent, as papers print them, losses and errors as they are.

Files (`metrics.jsonl`, `metrics.json`, all that `--json` prints) keep fractions; only what people read goes through
here, so that a number has one unit wherever it is shown.
"""

from math import isfinite

LOSS = "loss"
"""The name of a validation set's loss among its metrics."""
ERRORS = frozenset({LOSS, "ce", "MAE", "MSE", "RMSE", "perplexity", "IDSW"})
"""Last parts of the names of metrics that are no fractions, and of which less is better."""


def is_loss(name: str) -> bool:
    """Whether a metric is a loss: `shelves_val/loss`."""
    return name.rpartition("/")[2] == LOSS


def is_error(name: str) -> bool:
    """Whether a metric has a unit of its own, and less of it is better."""
    return name.rpartition("/")[2] in ERRORS


def written(name: str, value: float | None) -> str:
    """A metric as people read it; None is one that was not finite.

    >>> written("shelves_val/bbox/AP", 0.4163), written("shelves_val/loss", 2.5)
    ('41.6%', '2.5')
    """
    if value is None or not isfinite(value):
        return "not finite"
    return f"{value:.4g}" if is_error(name) else f"{100 * value:.1f}%"


def scale(name: str) -> float:
    """What a metric is multiplied with before it is drawn."""
    return 1.0 if is_error(name) else 100.0
