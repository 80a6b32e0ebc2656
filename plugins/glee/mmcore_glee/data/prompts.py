"""Visual prompts: a training batch that shows what to find, instead of naming it.

One object per image stays; its mask, a point on it or its box is the prompt (prepare_targets and forward of the
published code).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from mmcore.contract.values import Box, Sample
from torch import Tensor

from mmcore_glee.batch import PromptMode
from mmcore_glee.data.samples import keep_objects

PROMPT_PROBABILITY = 0.2
"""Share of the batches of promptable tasks that become visual prompts."""
PROMPT_MODES: dict[PromptMode, float] = {"mask": 0.6, "point": 0.32, "box": 0.08}
"""How a prompt is given: 40 % as a user would draw it, a fifth of these as a box."""


def one_object_each(samples: Sequence[Sample], rng: np.random.Generator) -> tuple[Sequence[Sample], PromptMode | None]:
    """One random object per image, which the prompt points at; nothing changes when an image has none."""
    if any(len(sample.labels) == 0 or sample.masks is None for sample in samples):
        return samples, None
    kept = []
    for sample in samples:
        chosen = torch.zeros(len(sample.labels), dtype=torch.bool)
        chosen[int(rng.integers(len(chosen)))] = True
        kept.append(keep_objects(sample, chosen))
    modes = list(PROMPT_MODES)
    mode = modes[int(rng.choice(len(modes), p=list(PROMPT_MODES.values())))]
    return kept, mode


def hidden_boxes(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[tuple[Box, ...], ...]:
    """Of each image the boxes (xyxy, pixels) of the objects that a prompt leaves out."""
    hidden = []
    for whole, kept in zip(before, after, strict=True):
        boxes = whole.boxes_xyxy.tolist()
        for box in kept.boxes_xyxy.tolist():
            boxes.remove(box)
        hidden.append(tuple(tuple(box) for box in boxes))
    return tuple(hidden)


def point_prompts(
    masks: UInt8[Tensor, "batch height width"], rng: np.random.Generator
) -> UInt8[Tensor, "batch height width"]:
    """A small rectangle around one random pixel of each mask: a fortieth of the image to each side.

    Near the border it is cut off; the published code's slice starts below zero there and becomes empty.
    """
    _, height, width = masks.shape
    prompts = torch.zeros_like(masks)
    for prompt, mask in zip(prompts, masks):
        pixels = mask.nonzero()
        row, column = pixels[int(rng.integers(len(pixels)))].tolist()
        top, left = max(row - height // 40, 0), max(column - width // 40, 0)
        prompt[top : row + max(height // 40, 1), left : column + max(width // 40, 1)] = 1
    return prompts
