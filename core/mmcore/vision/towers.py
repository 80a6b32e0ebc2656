"""The vision towers of language-model families, by their configuration: CLIP's ViT, its ConvNeXt, or SigLIP's ViT.

A recipe writes a tower of another kind than the variant's whole: `model.tower: {kind: siglip, image_size: 384, ...}`;
without `kind` it changes single entries of the variant's.
"""

from collections.abc import Mapping
from typing import Any, Literal

from mmcore.contract.entry import check_entries
from mmcore.errors import RecipeError, suggest
from mmcore.vision.clip_vit import ClipTower, ClipVit
from mmcore.vision.convnext import ConvNext, ConvNextTower
from mmcore.vision.siglip_vit import SiglipTower, SiglipVit

Tower = ClipTower | ConvNextTower | SiglipTower
TOWERS: Mapping[str, type[Tower]] = {"clip": ClipTower, "convnext": ConvNextTower, "siglip": SiglipTower}
"""What `kind` may be."""


def build_tower(config: Tower) -> ClipVit | ConvNext | SiglipVit:
    """The tower with random weights, on the default device (also "meta").

    Raises:
        RecipeError: the ConvNeXt's package is not installed.
    """
    if isinstance(config, ClipTower):
        return ClipVit(config)
    return SiglipVit(config) if isinstance(config, SiglipTower) else ConvNext(config)


def make_tower(entries: Mapping[str, Any]) -> Tower:
    """A tower from plain values; `kind` says which, and what is not given is the published one's.

    Raises:
        RecipeError: there is no such kind or entry, or a value is of another type.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()
    }
    kind = str(values.pop("kind", None))
    if kind not in TOWERS:
        do = suggest(kind, TOWERS, "choose one of these")
        raise RecipeError(f"there is no vision tower of kind {kind!r}", where="model.tower.kind", known=TOWERS, do=do)
    check_entries(TOWERS[kind], values, "tower has no setting", "model.tower")
    return TOWERS[kind](**values)


def image_library(config: Tower) -> Literal["transformers", "torchvision"]:
    """Whose arithmetic the tower's pictures were prepared with, for `mmcore.vision.clip_images.ClipImages`."""
    return "torchvision" if isinstance(config, ConvNextTower) else "transformers"


def image_options(config: Tower) -> dict[str, Any]:
    """How the tower's pictures are resized and normalised, as arguments of `mmcore.vision.clip_images.ClipImages`."""
    if isinstance(config, ConvNextTower):
        return {"library": "torchvision"}
    return {"mean": config.image_mean, "std": config.image_std, "resample": config.resample}
