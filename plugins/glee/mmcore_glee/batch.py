"""One training or inference batch of GLEE: images of one source, and the words to look for in them."""

from dataclasses import dataclass

from jaxtyping import Int, UInt8
from mmcore.contract.values import Box, DetectionBatch, PromptKind
from mmcore.losses.jagged import to_device
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
    prompt_masks: UInt8[Tensor, "prompts height width"] | None = None
    """Visual prompt: the region of each image that shows what to find, at padded size; of clips in the first frame.
    None without prompt."""
    prompt_mode: PromptMode = "mask"
    hidden: tuple[tuple[Box, ...], ...] | None = None
    """Of each image of a prompted training batch the boxes (xyxy, pixels) of the objects that the prompt does not mean:
    they are neither asked about nor learned. For pictures only."""
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

    @property
    def first_frames(self) -> Int[Tensor, " clips"]:
        """Where among the images each clip begins."""
        assert self.num_frames is not None
        starts = [sum(self.num_frames[:i]) for i in range(len(self.num_frames))]
        return to_device(starts, self.images.device)

    @property
    def clip_of_frame(self) -> Int[Tensor, " frames"]:
        """Number of the clip that each image belongs to."""
        assert self.num_frames is not None
        return to_device([i for i, count in enumerate(self.num_frames) for _ in range(count)], self.images.device)
