"""mmcore: one trainer for grounded vision-language models and object detectors.

The names a plugin uses. Those that need torch are imported when first touched, so that a plugin's top module, and
with it `mmcore --help` and `mmcore plugins`, stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmcore.hookspecs import hookimpl
from mmcore.recipe import (
    AdamW,
    Constant,
    Cosine,
    Data,
    Init,
    LinearDecay,
    Lora,
    MultiStep,
    Source,
    Stage,
    Validation,
)
from mmcore.version import API_VERSION, __version__

if TYPE_CHECKING:
    from mmcore.data.sources import DataContext, Datasets
    from mmcore.types import Batch, DetectionBatch, Draw, Loss, Losses, Prediction, Sample, Span

_LAZY = {
    "Batch": "mmcore.types",
    "DataContext": "mmcore.data.sources",
    "Datasets": "mmcore.data.sources",
    "DetectionBatch": "mmcore.types",
    "Draw": "mmcore.types",
    "Loss": "mmcore.types",
    "Losses": "mmcore.types",
    "Prediction": "mmcore.types",
    "Sample": "mmcore.types",
    "Span": "mmcore.types",
}

__all__ = [
    "API_VERSION",
    "AdamW",
    "Batch",
    "Constant",
    "Cosine",
    "Data",
    "DataContext",
    "Datasets",
    "DetectionBatch",
    "Draw",
    "Init",
    "LinearDecay",
    "Lora",
    "Loss",
    "Losses",
    "MultiStep",
    "Prediction",
    "Sample",
    "Source",
    "Span",
    "Stage",
    "Validation",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mmcore' has no attribute {name!r}")
