"""Any images and a question about them as a batch: names to look for, or one expression."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcore.contract.values import Draw

from mmcore_glee import vocabulary
from mmcore_glee.batch import GleeBatch
from mmcore_glee.data.augment import pipeline
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
) -> GleeBatch:
    """A test batch, as evaluation would make it.

    Args:
        images: (height, width, 3) uint8 RGB each.
        names: what to look for; None is COCO's 80 names.
        expression: look for the one object it refers to instead.
        transform: the recipe's `data.transform`.
    """
    steps = pipeline(transform)
    cleaned = None if expression is None else vocabulary.clean_expression(expression)
    samples = [
        image_only(image, steps.test(image.shape[:2]), draw=Draw("predict", i, 0), image_id=i, expression=cleaned)
        for i, image in enumerate(images)
    ]
    task = TASKS["coco" if expression is None else "grounding"]
    words = tuple(names) if names is not None else vocabulary.names("coco")
    return Collate(task, words, training=False, squared=steps.squared)(samples, 0)


def ask_video(
    frames: Sequence[np.ndarray],
    names: Sequence[str] | None,
    expression: str | None,
    transform: Mapping[str, Any],
) -> GleeBatch:
    """A test batch of one video; the arguments are those of `ask`, with frames of one size for images."""
    steps = pipeline(transform)
    cleaned = None if expression is None else vocabulary.clean_expression(expression)
    draw = Draw("predict", 0, 0)
    shown = [image_only(frame, steps.test(frame.shape[:2]), draw=draw, image_id=0) for frame in frames]
    task = TASKS["coco_clip" if expression is None else "rvos"]
    words = tuple(names) if names is not None else vocabulary.names("coco")
    clip = as_clip(shown, list(range(len(shown))), expression=cleaned)
    return ClipCollate(task, words, training=False, squared=steps.squared)([clip], 0)
