"""From a record to a sample: the image pipeline applied to one image, its boxes, its masks and its words.

Detection keeps the transformed box of the file even when a crop cut the mask (as the published code does), except with
large-scale jitter; referring takes the tight box of the transformed mask. Objects without area are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import Draw, Sample
from mmcore.data.transforms import Transform, tight_boxes
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
    image: np.ndarray,
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
        image: (height, width, 3) uint8.
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
    pixels = transform.image(image)
    boxes = transform.boxes(objects.boxes_xyxy, objects.whole)
    masks = None if objects.segmentations is None else transform.masks(objects.segmentations, where=where)
    if tight and masks is not None:
        boxes = tight_boxes(masks)
    kept = (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(axis=1)
    if masks is not None:
        kept &= masks.any(axis=(1, 2))
    sample = Sample(
        image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
        boxes_xyxy=torch.from_numpy(boxes.astype(np.float32)),
        labels=torch.from_numpy(objects.labels),
        masks=None if masks is None else torch.from_numpy(masks),
        draw=draw,
        image_id=image_id,
        original_size=transform.size,
        expression=expression,
        names=objects.phrases,
        track_ids=tracks,
    )
    return keep_objects(sample, torch.from_numpy(kept))


def image_only(
    image: np.ndarray, transform: Transform, *, draw: Draw, image_id: int | str, expression: str | None = None
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
