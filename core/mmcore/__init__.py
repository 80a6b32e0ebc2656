"""mmcore: one trainer for grounded vision-language models and object detectors.

The names a plugin uses, and `load` for everybody who has a trained model. Those that need torch are imported when first
touched, so that a plugin's top module, and with it `mmcore --help` and `mmcore plugins`, stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmcore.contract.family import Family
from mmcore.contract.hookspecs import hookimpl
from mmcore.contract.mixture import ByKind, ByLength, ByTask, SourcePerBatch, SourcePerSample, WholeEpochs
from mmcore.contract.recipe import (
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
    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Collator, DataContext, Datasets, DataSource, Evaluator
    from mmcore.contract.values import Batch, DetectionBatch, Draw, Loss, Losses, Phrase, Prediction, Sample
    from mmcore.runs.load import load

_LAZY = {
    "Batch": "mmcore.contract.values",
    "Collator": "mmcore.contract.protocols",
    "DataContext": "mmcore.contract.protocols",
    "DataSource": "mmcore.contract.protocols",
    "Datasets": "mmcore.contract.protocols",
    "DetectionBatch": "mmcore.contract.values",
    "Draw": "mmcore.contract.values",
    "Evaluator": "mmcore.contract.protocols",
    "Loss": "mmcore.contract.values",
    "Losses": "mmcore.contract.values",
    "Phrase": "mmcore.contract.values",
    "Model": "mmcore.contract.model",
    "Prediction": "mmcore.contract.values",
    "Sample": "mmcore.contract.values",
    "load": "mmcore.runs.load",
}

__all__ = [
    "API_VERSION",
    "AdamW",
    "Batch",
    "ByKind",
    "ByLength",
    "ByTask",
    "Collator",
    "Constant",
    "Cosine",
    "Data",
    "DataContext",
    "DataSource",
    "Datasets",
    "DetectionBatch",
    "Draw",
    "Evaluator",
    "Family",
    "Init",
    "LinearDecay",
    "Lora",
    "Loss",
    "Losses",
    "Model",
    "MultiStep",
    "Phrase",
    "Prediction",
    "Sample",
    "Source",
    "SourcePerBatch",
    "SourcePerSample",
    "Stage",
    "Validation",
    "WholeEpochs",
    "__version__",
    "hookimpl",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mmcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
