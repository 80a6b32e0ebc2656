"""Griffon (Zhan et al., arXiv 2311.14552, 2403.09333, 2410.16163): a language model that spells boxes out as text.

The hooks, one line of work each; heavy imports stay inside them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mmcore import Family, Stage, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmcore import DataContext, Datasets, Model, Source
    from mmcore.data.formats.format import Format


@hookimpl
def family() -> Family:
    """Who it is."""
    from mmcore_griffon.recipes import SHORTHANDS

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
        learns=("detect", "refer", "ground", "region_caption", "count", "converse", "caption"),
        hub=(
            "hf://JefferyZhan/Griffon-G-gemma2-9B",
            "hf://JefferyZhan/Griffon-G-gemma2-27B",
            "hf://JefferyZhan/Griffon",
        ),
        shorthands={name: dict(entries) for name, entries in SHORTHANDS.items()},
        requires_api=">=0.2,<0.3",
    )


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """Every stage of one size, in training order."""
    from mmcore_griffon.stages import stages

    return stages(variant)


@hookimpl
def listed_sources(path: Path, root: Path, stage: Stage) -> "Mapping[str, Source]":
    """The sources of a published list of tasks, annotations and image folders."""
    from mmcore_griffon.data.list_file import sources

    return sources(path, root, stage)


@hookimpl
def annotation_formats() -> "tuple[Format, ...]":
    """The JSON Lines of each kind."""
    from mmcore_griffon.data.formats import FORMATS

    return FORMATS


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
