"""What every family's module offers the core: the model contract.

forward(batch) -> Losses            one training micro-batch
predict(batch) -> list[Prediction]  inference, one prediction per image or conversation
prepare(images, names, prompt) -> Batch   optional: the batch `predict` takes, from loose images (`mmcore.runs.predict`)
loss_weights -> {name: factor}      the factor of each loss that has one, the recipe's applied; others are refused
max_length -> int                   optional: the longest sequence, tokens; without it the recipe's entry is refused
published(format) -> WeightMap      published parameter names <-> ours (`mmcore.weights.maps`), e.g. "upstream"
published_parts(tensors) -> WeightMap     optional: the upstream map for a run that lacks parts, which then stay new
initialise(path) -> report          optional: fill from a published file the family recognises
attach(stage, context, folder) -> None   optional: where the data and the run lie, for what is no weight (a tokenizer)
keep_files(folder) -> None           optional: copies what prediction needs besides weights into the run folder
idle_parameters(stage) -> patterns   optional: what only other data or stages train (`mmcore plugins check` asks)
zero3_leaves() -> modules           optional: units that ZeRO-3 gathers whole
export_hf, export_files             optional: folders for others (`mmcore.runs.export`)
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from mmcore.contract.values import Batch, Losses, Prediction
from mmcore.weights.maps import WeightMap


@runtime_checkable
class Model(Protocol):
    """A family's `nn.Module`. The core moves it, freezes it, and calls it through the engine."""

    def __call__(self, batch: Batch) -> Losses:
        """Named losses of one micro-batch; see `mmcore.contract.values.Loss` for the normaliser."""
        ...

    def predict(self, batch: Batch) -> list[Prediction]:
        """Predictions for each image of the batch, in order; called in eval mode without gradients."""
        ...

    def published(self, format: str) -> WeightMap:
        """The map between published checkpoint names and this module's state dict.

        Raises:
            WeightsError: the family has no such format; names those it has.
        """
        ...


def zero3_leaves(model: nn.Module) -> Sequence[nn.Module]:
    """Modules whose parameters ZeRO-3 gathers as one unit.

    A family whose forward takes another path from one batch to the next (one rank with masks, one without) returns
    here the modules inside which paths differ, so that all ranks gather the same parameters in the same order. By
    default nothing.
    """
    leaves = getattr(model, "zero3_leaves", None)
    return tuple(leaves()) if leaves else ()
