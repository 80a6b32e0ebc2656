"""VisPer-LM (Jain et al., NeurIPS 2025, arXiv 2412.09585): LLaVA whose hidden states also say what vision models see.

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
        name="visper",
        title="VisPer-LM: visual instruction tuning with embedding objectives, and the LLaVA-1.5 baseline",
        variants=("llama3-vit", "llama3-convnext", "phi3-vit", "phi3-convnext", "llava15-llama3-vit", "tiny"),
        learns=("converse", "caption"),
        bases=("language", "vision"),
        plain_llava=("llava15-llama3-vit", "ift"),
        requires_api=">=0.2,<0.3",
    )


@hookimpl
def stage_params(variant: str) -> tuple[Stage, ...]:
    """The published stages: pt, ift, vpt, vpt-ift, probe."""
    from mmcore_visper.recipes import stages

    return stages(variant)


@hookimpl
def build_model(stage: Stage, variant: str) -> "Model":
    """VisPer-LM with fresh weights."""
    from mmcore_visper.build import build

    return build(stage, variant)


@hookimpl
def build_datasets(stage: Stage, split: str, context: "DataContext") -> "Datasets":
    """The recipe's conversations or validation sets."""
    from mmcore_visper.data import build

    return build(stage, split, context)


@hookimpl
def post_train(run: "FinishedRun") -> None:
    """Fold the task tokens and write the folder that plain transformers opens, where the variant allows it."""
    from mmcore_visper.export import after_training

    after_training(run)


@hookimpl
def annotation_formats() -> "tuple[Format, ...]":
    """Captions as the probing reads them, and the question files of the benchmarks."""
    from mmcore_visper.data.formats import FORMATS

    return FORMATS


@hookimpl
def data_cache(stage: Stage, context: "DataContext", dtype: str | None = None) -> "CacheJob":
    """The teachers' targets of every picture, for `mmcore data cache`."""
    from mmcore_visper.data.cached import data_cache

    return data_cache(stage, context, dtype)


@hookimpl
def plan_notes(stage: Stage, context: "DataContext") -> tuple[str, ...]:
    """Cache or live teachers, for `mmcore plan`."""
    from mmcore_visper.targets import plan_notes

    return plan_notes(stage, context)


@hookimpl
def write_demo(root: Path) -> None:
    """Sample scenes with conversations in the formats of LLaVA, for --demo."""
    from mmcore_visper.data.demo import write_demo

    write_demo(root)
