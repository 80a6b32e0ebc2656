"""Griffon (Zhan et al., arXiv 2311.14552, 2403.09333, 2410.16163): a language model that spells boxes out as text.

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
        name="griffon",
        title="Griffon v1, v2 and G: localisation at high resolution, boxes as text",
        variants=(
            "g-gemma2-9b",
            "g-gemma2-27b",
            "g-llama2-7b",
            "v2-llama2-13b",
            "v1-llama2-13b",
            "qwen25-7b",
            "tiny",
            "tiny-llama2",
            "tiny-qwen25",
        ),
        learns=("converse",),
        hub=(
            "hf://JefferyZhan/Griffon-G-gemma2-9B",
            "hf://JefferyZhan/Griffon-G-gemma2-27B",
            "hf://JefferyZhan/Griffon",
        ),
        requires_api=">=0.2,<0.3",
    )


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """Every stage of one size, in training order."""
    from mmcore_griffon.recipes import stages

    return stages(variant)


@hookimpl
def build_model(stage: Stage, variant: str) -> "Model":
    """Griffon with fresh weights."""
    from mmcore_griffon.build import build

    return build(stage, variant)


@hookimpl
def build_datasets(stage: Stage, split: str, context: "DataContext") -> "Datasets":
    """The recipe's records as conversations, or its validation sets."""
    from mmcore_griffon.data import build

    return build(stage, split, context)


@hookimpl
def write_demo(root: Path) -> None:
    """Sample scenes below `root`, for --demo."""
    from mmcore_griffon.data.demo import write_demo

    write_demo(root)
