"""GLEE (Wu et al., CVPR 2024, arXiv 2312.09158): a detector and segmenter whose classifier is a text encoder.

The hooks, one line of work each; heavy imports stay inside them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mmcore import Family, Stage, hookimpl

if TYPE_CHECKING:
    from mmcore import DataContext, Datasets, Model


@hookimpl
def family() -> Family:
    """Who it is."""
    return Family(
        name="glee",
        title="GLEE: open-vocabulary detection, segmentation, grounding and tracking in images and videos",
        variants=("lite", "plus", "pro", "tiny"),
        learns=("detect", "segment", "refer", "ground", "track", "track_refer"),
        requires_api=">=0.2,<0.3",
    )


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """The published stages of GLEE Lite and Plus, or the tiny one."""
    from mmcore_glee.recipes import stages

    return stages(variant)


@hookimpl
def build_model(stage: Stage, variant: str) -> "Model":
    """GLEE with fresh weights."""
    from mmcore_glee.model import build

    return build(stage, variant)


@hookimpl
def build_datasets(stage: Stage, split: str, context: "DataContext") -> "Datasets":
    """The recipe's sources or validation sets."""
    from mmcore_glee.data import build

    return build(stage, split, context)


@hookimpl
def write_demo(root: Path) -> None:
    """Sample scenes in the formats of COCO and RefCOCO, for --demo."""
    from mmcore_glee.data.demo import write_demo

    write_demo(root)
