"""From a stage to its model: VisPer-LM, or one whose layers are probed."""

from mmcore import Stage

from mmcore_visper.config import VARIANTS
from mmcore_visper.model import Visper
from mmcore_visper.probe import VisperProbe


def build(stage: Stage, variant: str) -> Visper:
    """The model of a stage with fresh weights, on the default device (also "meta").

    Raises:
        RecipeError: the stage's `model` entries do not fit together.
    """
    changes = dict(stage.model)
    if stage.max_length is not None:
        changes.setdefault("max_length", stage.max_length)
    config = VARIANTS[variant].replace(**changes)
    return VisperProbe(config) if config.probe else Visper(config, stage.loss_weights)
