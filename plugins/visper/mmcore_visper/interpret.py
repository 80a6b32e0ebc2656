"""What the predictors make of a picture, for people: every output of every layer, and depth as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from mmcore.language.batch import ConversationBatch
from torch import Tensor

from mmcore_visper.dpt import as_picture
from mmcore_visper.model import Visper
from mmcore_visper.probe import VisperProbe


@dataclass(frozen=True, slots=True)
class Interpretation:
    """What the predictors or probes make of each image."""

    outputs: Mapping[str, Mapping[int, list[Tensor]]]
    """Task -> layer -> outputs, the supervised one first; each (images, *target shape)."""
    depth_maps: Mapping[int, Float[Tensor, "images px px"]] = field(default_factory=dict)
    """Layer -> decoded depth of each image, 0 to 1."""


@torch.no_grad()
def interpret(model: Visper, batch: ConversationBatch) -> Interpretation:
    """Every output of the predictors, or of the probe of every layer, for the images of a batch."""
    if isinstance(model, VisperProbe):
        outputs = {model.task.name: {layer: [found] for layer, found in zip(model.layers, model.probe(batch))}}
    else:
        outputs = {task.name: {} for task in model.config.tasks}
        hidden, queries = model.forward_hidden(batch, model.layers_read)
        if model.predictors and model.sees(batch):
            for task, layer, predictor, reads in model.readers(batch, hidden, queries):
                outputs[task.name][layer] = predictor.outputs(*reads)
    return Interpretation(outputs, depth_pictures(model, outputs.get("depth", {})))


def depth_pictures(model: Visper, outputs: Mapping[int, Sequence[Tensor]]) -> dict[int, Tensor]:
    """Layer -> depth of each image from 0 to 1; a single output stands for all four levels of the decoder."""
    if model.depth_decoder is None:
        return {}
    levels = {layer: list(found) if len(found) == 4 else [found[0]] * 4 for layer, found in outputs.items()}
    return {layer: as_picture(model.depth_decoder(found)) for layer, found in levels.items()}
