"""Validation on answers that are given: how well their tokens are predicted, and the masks that they point with.

    cIoU     sum of intersections over sum of unions, in pixels
    gIoU     mean over masks of I / (U + 1e-5), an empty mask that stays empty counting 1
    ce       mean over conversations of the cross entropy of a learned token

As LISA and its descendants are validated, in evaluation mode throughout: their cross entropy is taken with dropout on.
Logits over 0 are inside; targets over 1 count as 1.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.errors import DataError
from mmcore.evaluate.metrics import unique
from mmcore.geometry import masks
from mmcore.language.batch import ConversationBatch

TEXT_LOSS = "text_loss"
"""The measure of a prediction that has the sum of its tokens' cross entropy and their number."""


class GivenEvaluator(Evaluator):
    """Masks and text of conversations whose answers are in the batch.

    Args:
        has_masks: whether the set's answers have masks.
    """

    def __init__(self, has_masks: bool) -> None:
        self.has_masks = has_masks
        self._items: list[dict[str, Any]] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """gIoU and cIoU where there are masks, then the cross entropy."""
        return (*(("gIoU", "cIoU") if self.has_masks else ()), "ce")

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch.

        Raises:
            DataError: a prediction has more masks than its conversation.
        """
        said = cast(ConversationBatch, batch)
        for regions, prediction in zip(said.regions, predictions, strict=True):
            total, tokens = prediction.measures.get(TEXT_LOSS, (0.0, 0.0))
            item: dict[str, Any] = {"image_id": prediction.image_id, "record_id": prediction.record_id}
            item |= {"loss": total, "tokens": tokens, "masks": []}
            truth = [region.mask.numpy() for region in regions if region.mask is not None]
            found = prediction.masks or ()
            if len(found) > len(truth):
                raise DataError(f"{len(found)} masks are predicted for {len(truth)}", where=str(prediction.record_id))
            for wanted, rle in zip(truth, found):
                item["masks"].append(overlap(masks.decode(rle), wanted))
            self._items.append(item)

    def state(self) -> list[dict[str, Any]]:
        """Intersection and union of every mask, and the loss of every conversation."""
        return self._items

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        """The figures over every conversation, each counted once."""
        once = unique(items)
        figures: dict[str, float] = {}
        pairs = np.array([pair for item in once for pair in item["masks"]], np.float64).reshape(-1, 2)
        if self.has_masks and len(pairs):
            figures = mask_figures(pairs)
        learned = [item["loss"] / item["tokens"] for item in once if item["tokens"]]
        if learned:
            figures["ce"] = float(np.mean(learned))
        return figures


def overlap(found: np.ndarray, wanted: np.ndarray) -> tuple[int, int]:
    """Intersection and union of two masks, pixels."""
    one, other = found > 0, wanted > 0
    return int((one & other).sum()), int((one | other).sum())


def mask_figures(pairs: np.ndarray) -> dict[str, float]:
    """gIoU and cIoU.

    Args:
        pairs: (masks, 2) intersections and unions, pixels.
    """
    inter, union = pairs.T
    each = inter / (union + 1e-5) + (union == 0)
    return {"gIoU": float(each.mean()), "cIoU": float(inter.sum() / (union.sum() + 1e-10))}
