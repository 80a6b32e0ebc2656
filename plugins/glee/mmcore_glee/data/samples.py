"""From a record to a sample: the image pipeline applied to one image, its boxes, its masks and its words.

Detection keeps the transformed box of the file even when a crop cut the mask (as the published code does), except with
large-scale jitter; referring takes the tight box of the transformed mask. Objects without area are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import Draw, Sample
from mmcore.data.transforms import Transform, tight_boxes
from PIL.Image import Image
from torch import Tensor

MIN_SIDE = 1e-5
"""Boxes with a shorter side than this, in pixels, are empty."""


@dataclass(frozen=True, slots=True)
class Objects:
    """What a file says about the objects of one image, crowds left out."""

    boxes_xyxy: np.ndarray
    """(objects, 4) float64 pixels of the original image."""
    whole: np.ndarray
    """(objects,) bool, whether the file gives the box in whole numbers (`Transform.points`)."""
    labels: np.ndarray
    """(objects,) int64."""
    segmentations: Sequence[Sequence[Sequence[float]] | Mapping[str, Any]] | None
    """Polygons or RLE per object; None for sources without masks."""
    phrases: tuple[str, ...] | None = None


def make_sample(
    image: np.ndarray | Image,
    objects: Objects,
    transform: Transform,
    *,
    tight: bool,
    draw: Draw,
    image_id: int | str,
    where: str | None = None,
    expression: str | None = None,
    tracks: Tensor | None = None,
) -> Sample:
    """Apply drawn steps to an image and its objects.

    Args:
        image: (height, width, 3) uint8, or Pillow's.
        objects: in pixels of `image`.
        transform: the drawn steps.
        tight: take boxes from the transformed masks, where there are masks.
        draw: of this sample.
        image_id: of the record.
        where: file and record, for errors.
        expression: already adapted to the steps.
        tracks: identity of each object, for a frame of a clip.

    Raises:
        DataError: the image has another size than its record, or a segmentation is malformed.
    """
    pixels = transform.planes(image)
    boxes = transform.boxes(objects.boxes_xyxy, objects.whole)
    kept, masks = np.ones(len(boxes), bool), None
    if not tight or objects.segmentations is None:
        kept = _has_sides(boxes)
    if objects.segmentations is not None:
        masks, kept = transform.visible(objects.segmentations, kept, where=where)
    labels, phrases = objects.labels, objects.phrases
    if not kept.all():
        boxes, labels = boxes[kept], labels[kept]
        phrases = None if phrases is None else tuple(compress(phrases, kept))
        tracks = None if tracks is None else tracks[torch.from_numpy(kept)]
    return Sample(
        image=torch.from_numpy(pixels),
        boxes_xyxy=torch.from_numpy((boxes if masks is None or not tight else tight_boxes(masks)).astype(np.float32)),
        labels=torch.from_numpy(labels),
        masks=None if masks is None else torch.from_numpy(masks),
        draw=draw,
        image_id=image_id,
        original_size=transform.size,
        expression=expression,
        names=phrases,
        track_ids=tracks,
    )


def _has_sides(boxes_xyxy: np.ndarray) -> np.ndarray:
    return np.all(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] > MIN_SIDE, axis=1)


def image_only(
    image: np.ndarray | Image, transform: Transform, *, draw: Draw, image_id: int | str, expression: str | None = None
) -> Sample:
    """A sample without objects, for inference."""
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0, np.int64), None)
    return make_sample(image, nothing, transform, tight=False, draw=draw, image_id=image_id, expression=expression)


def keep_objects(sample: Sample, rows: Tensor) -> Sample:
    """The sample with only those objects."""
    if bool(rows.all()):
        return sample
    names = sample.names
    return replace(
        sample,
        labels=sample.labels[rows],
        boxes_xyxy=sample.boxes_xyxy[rows],
        masks=None if sample.masks is None else sample.masks[rows],
        names=None if names is None else tuple(name for name, kept in zip(names, rows.tolist()) if kept),
        track_ids=None if sample.track_ids is None else sample.track_ids[rows],
    )
