"""How the sources of a stage are mixed: one choice of several, each with its own numbers.

What a kind draws is in `mmcore.data.order`, one order a file. Nothing here imports torch.
"""

from typing import Literal

from mmcore.contract.entry import Recipe


class SourcePerBatch(Recipe):
    """Every micro-batch comes from one source, drawn by weight; records are drawn independently (GLEE)."""

    kind: Literal["source_per_batch"] = "source_per_batch"
    by_aspect: bool = False
    """Landscape and portrait images never share a micro-batch, which saves padding."""


class SourcePerSample(Recipe):
    """Every sample comes from a source of its own, drawn by weight; records are drawn independently."""

    kind: Literal["source_per_sample"] = "source_per_sample"
    by_aspect: bool = False


class WholeEpochs(Recipe):
    """Each source is gone through before any of its records repeats; weights say how fast."""

    kind: Literal["epochs"] = "epochs"
    source_per: Literal["batch", "sample"] = "batch"
    """What comes from one source: a micro-batch, or each sample for itself."""
    by_aspect: bool = False


class ByLength(Recipe):
    """Records of like length share a global batch, each record once per epoch; all sources have one weight (LLaVA)."""

    kind: Literal["length"] = "length"
    by_modality: bool = False
    """Records with and without an image keep apart."""


Mixture = SourcePerBatch | SourcePerSample | WholeEpochs | ByLength
