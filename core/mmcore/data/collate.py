"""Detection samples and clips to one `DetectionBatch`: images padded to one size, objects laid end to end."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mmcore.contract.values import IGNORED, ClipSample, DetectionBatch, Sample
from mmcore.geometry.boxes import xyxy_to_cxcywh

DIVISIBILITY = 32
"""Padded height and width are multiples of this."""


def collate_images(samples: Sequence[Sample]) -> DetectionBatch:
    """One batch of images, in their order; masks, tracks and label maps where every sample has them."""
    images = pad_images([sample.image for sample in samples])
    size = (images.shape[2], images.shape[3])
    num_objects = tuple(len(sample.labels) for sample in samples)
    tracks = [sample.track_ids for sample in samples if sample.track_ids is not None]
    return DetectionBatch(
        source=samples[0].draw.source,
        draws=tuple(sample.draw for sample in samples),
        normalisers={"objects": float(sum(num_objects)), "samples": float(len(samples))},
        images=images,
        image_sizes=tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples),
        original_sizes=tuple(sample.original_size for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        num_objects=num_objects,
        labels=torch.cat([sample.labels for sample in samples]),
        boxes_cxcywh=relative_boxes(torch.cat([sample.boxes_xyxy for sample in samples]), size),
        masks=_all(pad_masks, [sample.masks for sample in samples], size),
        record_ids=tuple(sample.record_id for sample in samples),
        track_ids=torch.cat(tracks) if len(tracks) == len(samples) else None,
        label_maps=_all(_pad_labels, [sample.label_map for sample in samples], size),
        ignore=_all(_pad_ignored, [sample.ignore for sample in samples], size),
    )


def collate_clips(samples: Sequence[ClipSample]) -> DetectionBatch:
    """One batch of clips; their frames follow each other as images, and `draws` has one entry a frame."""
    frames = [sample.frame(number) for sample in samples for number in range(len(sample))]
    batch = collate_images(frames)
    batch.num_frames = tuple(len(sample) for sample in samples)
    batch.frame_numbers = tuple(number for sample in samples for number in sample.frame_numbers)
    batch.normalisers["clips"] = float(len(samples))
    return batch


def pad_images(
    images: Sequence[UInt8[Tensor, "3 _ _"]], multiple: int = DIVISIBILITY
) -> UInt8[Tensor, "batch 3 height width"]:
    """Images in the top left corners of one zero tensor, whose sides are multiples of 32, or of `multiple`."""
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (1, 2))
    padded = torch.zeros((len(images), 3, height, width), dtype=torch.uint8)
    for row, image in zip(padded, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return padded


def pad_masks(masks: Sequence[Tensor | None], size: tuple[int, int]) -> UInt8[Tensor, "objects height width"]:
    """Masks of all images laid end to end in the top left corners of a zero tensor of this size."""
    padded = torch.zeros((sum(len(m) for m in masks if m is not None), *size), dtype=torch.uint8)
    start = 0
    for of_image in masks:
        assert of_image is not None
        count, height, width = of_image.shape
        padded[start : start + count, :height, :width] = of_image
        start += count
    return padded


def relative_boxes(boxes_xyxy: Float[Tensor, "objects 4"], size: tuple[int, int]) -> Float[Tensor, "objects 4"]:
    """xyxy pixels to cxcywh fractions of the padded height and width, in [0, 1]."""
    height, width = size
    return (xyxy_to_cxcywh(boxes_xyxy) / boxes_xyxy.new_tensor([width, height, width, height])).clamp(0, 1)


def _pad_labels(maps: Sequence[Int[Tensor, "_ _"]], size: tuple[int, int]) -> Int[Tensor, "batch height width"]:
    padded = torch.full((len(maps), *size), IGNORED)
    for row, one in zip(padded, maps):
        row[: one.shape[0], : one.shape[1]] = one
    return padded


def _pad_ignored(maps: Sequence[Bool[Tensor, "_ _"]], size: tuple[int, int]) -> Bool[Tensor, "batch height width"]:
    padded = torch.zeros((len(maps), *size), dtype=torch.bool)
    for row, one in zip(padded, maps):
        row[: one.shape[0], : one.shape[1]] = one
    return padded


def _all(
    pad: Callable[[Sequence[Any], tuple[int, int]], Tensor], parts: Sequence[Tensor | None], size: tuple[int, int]
) -> Tensor | None:
    """Padded where every sample has a part, else nothing."""
    return pad(parts, size) if all(part is not None for part in parts) else None
