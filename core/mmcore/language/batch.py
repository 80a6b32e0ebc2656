"""Conversations with their images as one batch: the plan of the spliced rows, and everything that belongs to it.

A family whose samples bring more (region boxes, masks of a decoder) adds its tensors in a subclass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from mmcore.contract.values import Batch, Id, Phrase, Region, Turn, VisualPrompt
from mmcore.language.sequence import Sequences


@dataclass(slots=True)
class ConversationBatch(Batch):
    """Samples in order; only samples with an image have rows in `images`, `other_images` and `features`."""

    sequences: Sequences
    images: Float[Tensor, "images 3 side side"]
    """Normalised for the vision tower; no rows when the batch is all text."""
    image_samples: Int[Tensor, " images"]
    """Sample of each image."""
    image_ids: tuple[Id | None, ...]
    record_ids: tuple[Id | None, ...]
    """Of each conversation or question."""
    original_sizes: tuple[tuple[int, int], ...]
    """Height and width of each sample's first image on disk, pixels; (0, 0) without one."""
    turns: tuple[tuple[Turn, ...], ...] = ()
    """What was said, sample by sample."""
    regions: tuple[tuple[Region, ...], ...] = ()
    """What each conversation speaks of, sample by sample; pixels of its original image."""
    phrases: tuple[tuple[Phrase, ...], ...] = ()
    """Which pieces of each conversation mean which of its regions."""
    prompts: tuple[tuple[VisualPrompt, ...], ...] = ()
    """What a person pointed at, sample by sample."""
    object_counts: tuple[int | None, ...] = ()
    """How many there are, where a record says so without marking each."""
    other_images: Mapping[str, Tensor] = field(default_factory=dict)
    """Role -> images for other networks than the tower, one row per image; empty where their features are cached."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> what frozen networks said of the images beforehand, one row per image."""
    max_new_tokens: int | None = None
    """Longest answer that is asked for; None leaves it to the model."""
    hear: Callable[[str], None] | None = None
    """Told the first sample's answer while it grows, piece by piece; a family that hears nothing says it at the end."""

    @property
    def num_samples(self) -> int:
        """Conversations, with or without an image."""
        return len(self.sequences.locations)

    def first_image(self, sample: int) -> int | None:
        """Row of `images` that a sample shows first; None of a text."""
        owners = self.image_samples.tolist()
        return owners.index(sample) if sample in owners else None
