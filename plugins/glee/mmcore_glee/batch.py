"""One training or inference batch of GLEE: images of one source, and the words to look for in them."""

from dataclasses import dataclass

from jaxtyping import Int, UInt8
from mmcore.contract.values import DetectionBatch, PromptKind
from torch import Tensor

PromptMode = PromptKind
"""How a visual prompt was given; a box is filled, a point becomes a small box around it."""


@dataclass(slots=True)
class GleeBatch(DetectionBatch):
    """Images and objects of one task, with the tokenised vocabulary (or one expression per image)."""

    task: str
    """Task name by which label embeddings and losses are chosen, such as "coco", "obj365", "grounding"."""
    names: tuple[str, ...]
    """Vocabulary of the batch, which `labels` index; empty for grounding."""
    input_ids: Int[Tensor, "texts tokens"]
    """CLIP ids of the names padded to the longest, or of one expression per image padded to 77."""
    attention_mask: Int[Tensor, "texts tokens"]
    """1 for begin, words and the first end token, 0 for padding."""
    expressions: tuple[str, ...] | None = None
    """Referring expression of each image, for grounding."""
    prompt_masks: UInt8[Tensor, "batch height width"] | None = None
    """Visual prompt: the region of each image that shows what to find, at padded size; None without prompt."""
    prompt_mode: PromptMode = "mask"
    squared: bool = False
    """Whether images were padded to a square before they were normalised, as large-scale jitter does it."""

    @property
    def has_masks(self) -> bool:
        """Whether the source has masks; without them matching and losses use class and box only."""
        return self.masks is not None

    @property
    def num_classes(self) -> int:
        """Width of the class logits: the vocabulary, or 1 for grounding."""
        return len(self.names) if self.expressions is None else 1
