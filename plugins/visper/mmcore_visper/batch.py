"""One batch of VisPer-LM: spliced conversations, their images, and what the teachers say or need to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from mmcore.contract.values import Batch, Id
from mmcore.language.sequence import Sequences, Turn
from torch import Tensor


@dataclass(slots=True)
class VisperBatch(Batch):
    """Samples in order; only samples with an image have rows in `images`, `targets` and `teacher_inputs`."""

    sequences: Sequences
    images: Float[Tensor, "images 3 side side"]
    """Normalised for the vision tower; no rows when the batch is all text."""
    image_samples: Int[Tensor, " images"]
    """Sample of each image."""
    image_ids: tuple[Id | None, ...]
    record_ids: tuple[Id | None, ...]
    """Of each conversation or question."""
    original_sizes: tuple[tuple[int, int], ...]
    """Height and width of each sample's image on disk, pixels; (0, 0) without one."""
    turns: tuple[tuple[Turn, ...], ...] = ()
    """What was said, sample by sample."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """Task -> cached teacher output, one row per image: depth (576, 1024), seg (1536, 24, 24), gen (1, 1024)."""
    teacher_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Task -> preprocessed pixels for a live teacher, one row per image; empty where targets are cached."""
    max_new_tokens: int | None = None
    """Longest answer that is asked for; None leaves it to the model."""
