"""GLEE (Wu et al., CVPR 2024, arXiv 2312.09158): a detector and segmenter whose classifier is a text encoder.

The four hooks, one line of work each; heavy imports stay inside them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mmcore import Stage, hookimpl

if TYPE_CHECKING:
    from mmcore import DataContext, Datasets
    from torch import nn

TITLE = "GLEE: open-vocabulary detection, segmentation and grounding in images"
VARIANTS = ("lite", "plus", "tiny")
REQUIRES_API = ">=0.1,<0.2"


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """The published stages of GLEE Lite and Plus, or the tiny one."""
    from mmcore_glee.recipes import stages

    return stages(variant)


@hookimpl
def build_model(stage: Stage, variant: str) -> "nn.Module":
    """GLEE with fresh weights."""
    from mmcore_glee.model import build

    return build(stage, variant)


@hookimpl
def build_datasets(stage: Stage, split: str, context: "DataContext") -> "Datasets":
    """The recipe's sources or validation sets."""
    from mmcore_glee.data import build

    return build(stage, split, context)


def learned_tasks() -> tuple[str, ...]:
    """The tasks of annotations that own data may serve."""
    return ("detect", "segment", "refer", "ground")


def write_demo(root: Path) -> Path:
    """Sample scenes in the formats of COCO and RefCOCO, for --demo."""
    from mmcore_glee.data.demo import write_demo

    return write_demo(root)
