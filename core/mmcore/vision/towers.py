"""The vision towers of language-model families, by their configuration: CLIP's ViT, or its ConvNeXt."""

from typing import Literal

from mmcore.vision.clip_vit import ClipTower, ClipVit
from mmcore.vision.convnext import ConvNext, ConvNextTower

Tower = ClipTower | ConvNextTower


def build_tower(config: Tower) -> ClipVit | ConvNext:
    """The tower with random weights, on the default device (also "meta").

    Raises:
        RecipeError: the ConvNeXt's package is not installed.
    """
    return ClipVit(config) if isinstance(config, ClipTower) else ConvNext(config)


def image_library(config: Tower) -> Literal["transformers", "torchvision"]:
    """Whose arithmetic the tower's pictures were prepared with, for `mmcore.vision.clip_images.ClipImages`."""
    return "torchvision" if isinstance(config, ConvNextTower) else "transformers"
