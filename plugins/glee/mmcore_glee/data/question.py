"""Any images and a question about them as a batch: names to look for, one expression, or something pointed at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import Draw, VisualPrompt
from mmcore.data.transforms import Transform
from mmcore.data.visual import prompt_mask
from mmcore.errors import UsageError

from mmcore_glee import vocabulary
from mmcore_glee.batch import GleeBatch
from mmcore_glee.data.augment import padding, pipeline
from mmcore_glee.data.clip_collate import ClipCollate
from mmcore_glee.data.clips import as_clip
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.samples import image_only
from mmcore_glee.data.tasks import TASKS


def ask(
    images: Sequence[np.ndarray],
    names: Sequence[str] | None,
    expression: str | None,
    transform: Mapping[str, Any],
    visual: VisualPrompt | None = None,
) -> GleeBatch:
    """A test batch, as evaluation would make it.

    Args:
        images: (height, width, 3) uint8 RGB each.
        names: what to look for; None is COCO's 80 names.
        expression: look for the one object it refers to instead.
        transform: the recipe's `data.transform`.
        visual: what is meant, in pixels of each image.
    """
    steps = pipeline(transform)
    cleaned = None if expression is None else vocabulary.clean_expression(expression)
    samples = [
        image_only(image, steps.test(image.shape[:2]), draw=Draw("predict", i, 0), image_id=i, expression=cleaned)
        for i, image in enumerate(images)
    ]
    task = TASKS["coco" if expression is None else "grounding"]
    words = asked_for(names, visual)
    batch = Collate(task, words, training=False, **padding(steps))(samples, 0)
    if visual is None:
        return batch
    return pointed(batch, visual, [steps.test(image.shape[:2]) for image in images])


def asked_for(names: Sequence[str] | None, visual: VisualPrompt | None) -> tuple[str, ...]:
    """The names given; else what is pointed at is an "object", as published, and without prompt COCO's names."""
    if names is not None:
        return tuple(names)
    return vocabulary.names("coco" if visual is None else "object")


def pointed(batch: GleeBatch, visual: VisualPrompt, transforms: Sequence[Transform]) -> GleeBatch:
    """A batch with a prompt in each of its images, or in the first frame of its only video.

    Raises:
        UsageError: the prompt is not inside an image, or too small to be seen at the size that the network gets.
    """
    height, width = batch.images.shape[-2:]
    prompts = torch.zeros(len(transforms), height, width, dtype=torch.uint8)
    for prompt, transform in zip(prompts, transforms, strict=True):
        mask = torch.from_numpy(transform.bitmaps(prompt_mask(visual, transform.size)[None])[0])
        if not mask.any():
            raise UsageError(f"the {visual.kind} is too small to be seen", do="cover more of what is meant")
        prompt[: mask.shape[0], : mask.shape[1]] = mask
    return replace(batch, prompt_masks=prompts, prompt_mode=visual.kind)


def ask_video(
    frames: Sequence[np.ndarray],
    names: Sequence[str] | None,
    expression: str | None,
    transform: Mapping[str, Any],
    visual: VisualPrompt | None = None,
) -> GleeBatch:
    """A test batch of one video; the arguments are those of `ask`, with frames of one size for images, and what is
    pointed at lies in the first of them."""
    steps = pipeline(transform)
    cleaned = None if expression is None else vocabulary.clean_expression(expression)
    draw = Draw("predict", 0, 0)
    shown = [image_only(frame, steps.test(frame.shape[:2]), draw=draw, image_id=0) for frame in frames]
    task = TASKS["coco_clip" if expression is None else "rvos"]
    words = asked_for(names, visual)
    clip = as_clip(shown, list(range(len(shown))), expression=cleaned)
    batch = ClipCollate(task, words, training=False, **padding(steps))([clip], 0)
    return batch if visual is None else pointed(batch, visual, [steps.test(frames[0].shape[:2])])
