"""GLaMM (Rasheed et al., CVPR 2024, arXiv 2311.03356): a language model whose answers point at pixels.

The hooks, one line of work each; heavy imports stay inside them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mmcore import Family, Stage, hookimpl

if TYPE_CHECKING:
    from mmcore import DataContext, Datasets, Model
    from mmcore.contract.run import FinishedRun
    from mmcore.data.cache.features import CacheJob
    from mmcore.data.formats.format import Format


@hookimpl
def family() -> Family:
    """Who it is."""
    return Family(
        name="glamm",
        title="GLaMM: grounded conversations, region captions and referring segmentation",
        variants=("7b", "tiny"),
        learns=("grounded_caption", "refer", "segment", "region_caption", "caption", "converse"),
        judged={
            **dict.fromkeys(("grounded_caption", "refer", "segment"), "gIoU"),
            **dict.fromkeys(("region_caption", "caption"), "ce"),
        },
        requires_api=">=0.2,<0.3",
    )


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """The stages of one size, in training order."""
    from mmcore_glamm.recipes import stages

    return stages(variant)


@hookimpl
def build_model(stage: Stage, variant: str) -> "Model":
    """GLaMM with fresh weights."""
    from mmcore_glamm.build import build

    return build(stage, variant)


@hookimpl
def build_datasets(stage: Stage, split: str, context: "DataContext") -> "Datasets":
    """The recipe's conversations or validation sets."""
    from mmcore_glamm.data import build

    return build(stage, split, context)


@hookimpl
def annotation_formats() -> "tuple[Format, ...]":
    """The formats of published sets whose records are images with parts."""
    from mmcore.data.formats.grounded import GROUNDED

    return GROUNDED


@hookimpl
def post_train(run: "FinishedRun") -> None:
    """Fold the adapters in and write the folder that the released code opens."""
    from mmcore_glamm.export import after_training

    after_training(run)


@hookimpl
def data_cache(stage: Stage, context: "DataContext", dtype: str | None = None) -> "CacheJob":
    """SAM's map of every picture with masks, for `mmcore data cache`."""
    from mmcore_glamm.data.cached import data_cache

    return data_cache(stage, context, dtype)


@hookimpl
def plan_notes(stage: Stage, context: "DataContext") -> tuple[str, ...]:
    """Live or cached maps, for `mmcore plan`."""
    from mmcore_glamm.features import plan_notes

    return plan_notes(stage, context)


@hookimpl
def write_demo(root: Path) -> None:
    """Sample data below `root`, for --demo."""
    from mmcore_glamm.data.demo import write_demo

    write_demo(root)
