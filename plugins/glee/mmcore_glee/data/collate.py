"""Samples of one task to one `GleeBatch`: padding, the words of the batch, visual prompts.

Whatever is drawn here (which other names are asked about, which object becomes the prompt) follows from the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmcore.contract.protocols import Collator
from mmcore.contract.values import Sample
from mmcore.data.collate import pad_images, pad_masks, relative_boxes
from PIL.Image import Image

from mmcore_glee.batch import GleeBatch, PromptMode
from mmcore_glee.data.pictures import draw_asked
from mmcore_glee.data.prompts import hidden_boxes, one_object_each, point_prompts
from mmcore_glee.data.tasks import Task
from mmcore_glee.data.words import phrases_of_batch, sampled_names
from mmcore_glee.tokenizer import MAX_TOKENS, tokenise


@dataclass(frozen=True)
class Collate(Collator):
    """Makes the batches of one source.

    Args:
        task: decides the words.
        vocabulary: the source's names in label order.
        negatives: phrases from which free-text tasks draw other names, without repeats.
        prompt_share: share of the training batches that become visual prompts, where the task can.
        training: False asks about the whole vocabulary and draws nothing.
        squared: whether the image pipeline pads to a square.
        multiple: sides of a batch are multiples of this many pixels.
    """

    task: Task
    vocabulary: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    prompt_share: float = 0.0
    training: bool = True
    squared: bool = False
    multiple: int = 32

    def __call__(self, samples: Sequence[Sample], seed: int) -> GleeBatch:
        """One batch of samples, in their order."""
        rng = np.random.default_rng(seed)
        names: tuple[str, ...] = ()
        if self.task.words != "expression":
            samples, names = self._words(samples, rng)
        mode: PromptMode | None = None
        hidden = None
        if self.training and self.task.prompts and rng.random() < self.prompt_share:
            whole = samples
            samples, mode = one_object_each(samples, rng)
            hidden = None if mode is None else hidden_boxes(whole, samples)
        return replace(self._batch(samples, names, mode, rng), hidden=hidden)

    def draw(self, batch: GleeBatch) -> list[Image]:
        """Every sample with what is asked about it: names, or a visual prompt and what that hides."""
        return draw_asked(batch)

    def _words(self, samples: Sequence[Sample], rng: np.random.Generator) -> tuple[Sequence[Sample], tuple[str, ...]]:
        if not self.training and self.task.words == "phrases" and any(sample.names for sample in samples):
            return samples, tuple(dict.fromkeys(text for sample in samples for text in sample.names or ()))
        if not self.training or self.task.words == "all":
            return samples, self.vocabulary
        assert self.task.num_names is not None
        if self.task.words == "phrases":
            return phrases_of_batch(samples, self.negatives, self.task.num_names, rng)
        return sampled_names(samples, self.vocabulary, self.task.num_names, rng)

    def _batch(
        self, samples: Sequence[Sample], names: tuple[str, ...], mode: PromptMode | None, rng: np.random.Generator
    ) -> GleeBatch:
        images = pad_images([sample.image for sample in samples], self.multiple)
        size = (images.shape[2], images.shape[3])
        expressions = None
        if self.task.words == "expression":
            expressions = tuple(sample.expression or "" for sample in samples)
        # Padding of an expression takes part in the early fusion of the published model, so it is always complete;
        # names are only read where they are valid, so the longest decides.
        input_ids, attention_mask = tokenise(names) if expressions is None else tokenise(expressions, MAX_TOKENS)
        masks = pad_masks([sample.masks for sample in samples], size) if self._has_masks(samples) else None
        prompt_masks = None
        if mode is not None:
            assert masks is not None
            prompt_masks = point_prompts(masks, rng) if mode == "point" else masks
        return GleeBatch(
            source=samples[0].draw.source,
            draws=tuple(sample.draw for sample in samples),
            normalisers={
                "objects": float(sum(len(sample.labels) for sample in samples)),
                "samples": float(len(samples)),
                "batches": 1.0,
                "text_tokens": float(attention_mask.sum()) if expressions is None else 0.0,
            },
            images=images,
            image_sizes=tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples),
            original_sizes=tuple(sample.original_size for sample in samples),
            image_ids=tuple(sample.image_id for sample in samples),
            num_objects=tuple(len(sample.labels) for sample in samples),
            labels=torch.cat([sample.labels for sample in samples]),
            boxes_cxcywh=relative_boxes(torch.cat([sample.boxes_xyxy for sample in samples]), size),
            masks=masks,
            task=self.task.name,
            names=names,
            input_ids=input_ids,
            attention_mask=attention_mask,
            expressions=expressions,
            prompt_masks=prompt_masks,
            prompt_mode=mode or "mask",
            squared=self.squared,
        )

    def _has_masks(self, samples: Sequence[Sample]) -> bool:
        return self.task.has_masks and all(sample.masks is not None for sample in samples)
