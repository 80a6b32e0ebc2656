"""From a stage to its model."""

from mmcore import Stage

from mmcore_glamm.config import config_of
from mmcore_glamm.model import Glamm


def build(stage: Stage, variant: str) -> Glamm:
    """The model of a stage with fresh weights, on the default device (also "meta").

    Raises:
        RecipeError: the stage's `model` entries do not fit together.
    """
    return Glamm(config_of(stage, variant), stage.loss_weights)
