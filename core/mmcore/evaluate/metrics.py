"""Figures that plugins add to an evaluation, beside those that its evaluator gives."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.contract.protocols import Evaluator, Metric
from mmcore.contract.values import Batch, Prediction


class WithMetrics(Evaluator):
    """An evaluator that gives a few more figures.

    Args:
        make: makes the evaluator itself.
        metrics: the figures by name, functions of the evaluator's items.
    """

    def __init__(self, make: Callable[[], Evaluator], metrics: Mapping[str, Metric]) -> None:
        self.inner, self.metrics = make(), metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The evaluator's own, then the added ones."""
        return (*self.inner.metric_names, *self.metrics)

    @property
    def category_ap(self) -> Mapping[str, Mapping[str, float]]:  # type: ignore[override]
        """The evaluator's own."""
        return self.inner.category_ap

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch."""
        self.inner.update(batch, predictions)

    def state(self) -> list[Any]:
        """The evaluator's own items."""
        return self.inner.state()

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        """The evaluator's figures and the added ones."""
        once = unique(items)
        return {**self.inner.summarise(items), **{name: float(make(once)) for name, make in self.metrics.items()}}

    def results(self, items: Sequence[Any]) -> Any:
        """The evaluator's own."""
        return self.inner.results(items)

    def write(self, items: Sequence[Any], folder: Path) -> None:
        """The evaluator's own."""
        self.inner.write(items, folder)


def unique(items: Sequence[Any]) -> list[Any]:
    """Items without those of a record that another process took in as well; the first of each stays."""
    found: dict[Any, Any] = {}
    for number, item in enumerate(items):
        named = isinstance(item, Mapping) and (item.get("record_id") is not None or item.get("image_id") is not None)
        record = (item.get("record_id"), item.get("image_id")) if named else number
        found.setdefault(record, item)
    return list(found.values())
