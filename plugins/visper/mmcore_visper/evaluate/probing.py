"""How much of a teacher's features each layer holds: similarity per layer, and scores of what the probes predict.

    layer/01 ... layer/32   mean over images of the cosine between a layer's whole prediction and the target
    mean, best              over layers

`probes.png` shows the curve. The task scores (mean IoU, DA-2K pairs) are functions for decoded predictions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction

from mmcore_visper.plots import plot_layers

Item = dict[str, Any]
IGNORED = 255
"""Pixels of the ground truth that belong to no class."""


class ProbeEvaluator(Evaluator):
    """Collects the similarity of every layer's prediction, image by image.

    Args:
        task: what is probed for, for the picture's title.
    """

    def __init__(self, task: str | None = None) -> None:
        self.task = task or "probe"
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Mean and best layer, and each layer."""
        return ("mean", "best", "layer/*")

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the similarities of one batch; a prediction's measure `cosine` has one number per layer."""
        for one in predictions:
            if "cosine" in one.measures:
                cosine = [round(value, 6) for value in one.measures["cosine"]]
                self._items.append({"image_id": one.image_id, "record_id": one.key, "cosine": cosine})

    def state(self) -> list[Item]:
        """One item per image."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[Item]:
        """Image and its similarity at every layer."""
        return list(_once(items).values())

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The curve, its mean and its best."""
        curve = self._curve(items)
        if not len(curve):
            return {}
        layers = {f"layer/{number:02d}": float(value) for number, value in enumerate(curve, 1)}
        return {
            "mean": float(curve.mean()),
            "best": float(curve.max()),
            **layers,
        }

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """Draw the curve."""
        curve = self._curve(items)
        if len(curve):
            plot_layers({self.task: curve.tolist()}, folder / "probes.png")

    def _curve(self, items: Sequence[Item]) -> Float[np.ndarray, " layers"]:
        found = [item["cosine"] for item in _once(items).values()]
        return np.asarray(found, np.float64).mean(0) if found else np.zeros(0)


def _once(items: Sequence[Item]) -> Mapping[Any, Item]:
    """Each image once: the last batches of several processes repeat some."""
    return {item["record_id"]: item for item in items}


def mean_iou(truth: UInt8[np.ndarray, "height width"], predicted: UInt8[np.ndarray, "height width"]) -> float:
    """Mean over the classes present in an image's ground truth of intersection over union.

    255 is no class; what is predicted there still counts in the unions, as in the published script.
    """
    classes = [one for one in np.unique(truth) if one != IGNORED]
    overlaps = [
        np.count_nonzero((truth == one) & (predicted == one)) / np.count_nonzero((truth == one) | (predicted == one))
        for one in classes
    ]
    return float(np.mean(overlaps)) if overlaps else 0.0


def closer_point_right(depth: np.ndarray, point1: Sequence[int], point2: Sequence[int], closer: str) -> bool:
    """DA-2K's rule (Yang et al. 2024): the point with the larger value counts as closer.

    Args:
        depth: (height, width), larger is closer.
        point1: row and column.
        point2: row and column.
        closer: "point1" or "point2".
    """
    # Bytes would wrap around in a difference; compared they are safe.
    first, second = depth[tuple(point1)], depth[tuple(point2)]
    return ("point1" if first > second else "point2") == closer
