"""Records of images with objects, for pictures that people look at: what is there, beside what a model found."""

from collections.abc import Sequence

import numpy as np
import torch

from mmcore.contract.protocols import Shown
from mmcore.contract.values import Prediction
from mmcore.data.records import Record
from mmcore.geometry import masks


def shown_record(image: np.ndarray, record: Record, categories: Sequence[str], *, has_masks: bool) -> Shown:
    """A record with its objects but crowds.

    Args:
        image: (height, width, 3) uint8, of the record.
        record: objects in pixels of it.
        categories: names, which objects index.
        has_masks: whether masks are meant.
    """
    kept = [(place, item) for place, item in enumerate(record.objects) if not item.crowd]
    boxes = torch.tensor([item.box_xywh for _, item in kept], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    names = record.phrases or tuple(categories[item.category] for item in record.objects)
    drawn = has_masks and all(item.segmentation for _, item in kept)
    truth = Prediction(
        image_id=record.id,
        size=(record.height, record.width),
        boxes_xyxy=boxes,
        names=tuple("" if record.expressions else names[place] for place, _ in kept),
        masks=[_rle(item.segmentation, record) for _, item in kept] if drawn else None,
    )
    return Shown(image, truth, question=record.expressions[0] if record.expressions else "")


def _rle(segmentation: object, record: Record) -> masks.Rle:
    where = f"image id {record.id}"
    if isinstance(segmentation, dict):
        return masks.compress(segmentation, where=where)
    assert isinstance(segmentation, list)
    return masks.polygons_to_rle(masks.valid_polygons(segmentation), record.height, record.width, where=where)
