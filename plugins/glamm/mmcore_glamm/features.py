"""SAM's maps of training pictures: from the encoder in every step, or from a cache on disk.

The encoder is frozen and nothing random precedes it, so each picture's map is always the same. A cache holds it once,
at the published size 2 MB a picture in half precision; the choice is the core's (`mmcore.data.cache.choice`), and
`model.features` of a recipe is one of its modes. A live map is computed by the model's own encoder.
"""

from pathlib import Path

import numpy as np
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage, matches_any
from mmcore.contract.values import SEGMENT
from mmcore.data.cache.choice import Choice, Demand, Features, LiveFeatures, choose
from mmcore.errors import RecipeError
from mmcore.vision.frozen import find_weights
from mmcore.vision.sam.maps import SamMaps

from mmcore_glamm.config import RANDOM, GlammConfig, config_of

ENCODER = "sam.image_encoder"
DO = (
    "put sam_vit_h_4b8939.pth into the folder `weights` of the data root, name it with --set model.sam_weights=PATH, "
    "or train with --set model.features=live"
)


def features_for(stage: Stage, context: DataContext, split: str = "train") -> Features:
    """What a data source asks for the map of a picture. Validation pictures are not cached.

    Raises:
        RecipeError: the recipe trains the encoder and wants a cache of it.
        MissingDataError: the recipe wants a cache that is not there.
        DataError: the cache was made by another encoder or for other data.
    """
    choice = decide(stage, context) if split == "train" else None
    if choice is not None and choice.cache is not None:
        return choice.features(context.root)
    config = config_of(stage, context.variant)
    return LiveFeatures((_encoder(config),), f"sam-{config.sam.image_size}")


def decide(stage: Stage, context: DataContext) -> Choice | None:
    """Cache or live maps for the training data of a stage; None where no cache comes into question.

    Raises:
        RecipeError, MissingDataError, DataError: as `features_for`.
    """
    config = config_of(stage, context.variant)
    if trains_encoder(stage):
        if config.features not in ("auto", "live"):
            raise RecipeError(
                "the recipe trains SAM's encoder, so its maps cannot be cached",
                where=f"model.features={config.features}",
                do="leave sam.image_encoder out of trainable, or --set model.features=live",
            )
        return None
    made = _home(context).glob("*/cache.json")
    if config.features == "live" or (config.features == "auto" and not any(made)):
        return None
    return choose(demand(config, context), stage, context)


def trains_encoder(stage: Stage) -> bool:
    """Whether a recipe trains SAM's image encoder."""
    names = [f"{ENCODER}.{name}" for name in ("pos_embed", "layers.0.attn.qkv.weight", "neck.0.weight")]
    named = [pattern for pattern in stage.trainable if pattern != "*"]  # which leaves what is built frozen as it is
    return any(matches_any(named, name) and not matches_any(stage.frozen, name) for name in names)


def demand(config: GlammConfig, context: DataContext) -> Demand:
    """What a stage wants to know of its pictures."""
    encoder = _encoder(config, context.root)
    missing = not encoder.random and encoder.weights is None
    return Demand(
        extractors=(encoder,),
        absent={SEGMENT: config.sam_weights} if missing else {},
        shapes={SEGMENT: encoder.shape},
        source=config.features,
        store=config.feature_dtype,
        home=_home(context),
        family="GLaMM",
        setting="model.features",
        what="encoder",
        known=tuple(encoder.facts),
    )


def plan_notes(stage: Stage, context: DataContext) -> tuple[str, ...]:
    """Where the maps of a run come from, and what a cache of them takes on disk."""
    config, choice = config_of(stage, context.variant), decide(stage, context)
    if trains_encoder(stage):
        return ("SAM's maps: live encoder, which this stage trains",)
    size = int(np.prod(config.sam.feature_shape)) * (2 if config.feature_dtype == "fp16" else 4)
    room = f"`mmcore data cache` keeps them at {size / 2**20:.3g} MB a picture ({config.feature_dtype})"
    return (f"SAM's maps: live encoder; {room}",) if choice is None else (*choice.notes("SAM's maps"), room)


def _encoder(config: GlammConfig, root: Path | None = None) -> SamMaps:
    """SAM's encoder of a configuration; its file is looked for below the data root."""
    if config.sam_weights == RANDOM:
        return SamMaps(sizes=config.sam, random=True, precision="fp32")
    return SamMaps(sizes=config.sam, weights=find_weights(config.sam_weights, root) if root is not None else None)


def _home(context: DataContext) -> Path:
    return context.cache / "maps" / "glamm"
