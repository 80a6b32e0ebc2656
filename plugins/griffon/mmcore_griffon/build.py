"""From a stage to its model."""

from mmcore import Stage

from mmcore_griffon.config import config_of
from mmcore_griffon.model import Griffon


def build(stage: Stage, variant: str) -> Griffon:
    """The model of a stage with fresh weights, on the default device (also "meta").

    Raises:
        RecipeError: the stage's `model` entries do not fit together.
    """
    return Griffon(config_of(stage, variant), stage.loss_weights)
