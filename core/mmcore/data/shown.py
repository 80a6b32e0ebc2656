"""Records of images and videos, for pictures that people look at: what is there, beside what a model found."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from mmcore.contract.protocols import Shown
from mmcore.contract.values import Prediction, Region
from mmcore.data.records import Record
from mmcore.data.videos import VideoRecord
from mmcore.geometry import masks

FRAMES = 4
"""Frames of a video that are shown, spread over it."""


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
    refers = bool(record.expressions) and not record.phrases
    drawn = has_masks and all(item.segmentation for _, item in kept)
    truth = Prediction(
        image_id=record.id,
        size=(record.height, record.width),
        boxes_xyxy=boxes,
        names=tuple("" if refers else names[place] for place, _ in kept),
        masks=[_rle(item.segmentation, record, "image") for _, item in kept] if drawn else None,
    )
    return Shown(image, truth, question=record.expressions[0] if refers else "")


def shown_regions(
    image: np.ndarray,
    regions: Sequence[Region],
    *,
    question: str = "",
    size: tuple[int, int] | None = None,
    example: Region | None = None,
) -> Shown:
    """A picture with what an answer has to find in it.

    Args:
        image: (height, width, 3) uint8.
        regions: all with masks, or all with boxes.
        question: what is asked, where that is not the same for all records.
        size: height and width of the frame that the regions are in, pixels; None is the picture's own.
        example: what is shown instead of named.
    """
    height, width = size or (image.shape[0], image.shape[1])
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height)))
    bitmaps = [one.mask for one in regions if one.mask is not None]
    boxes = [one.box_xyxy for one in regions if one.box_xyxy is not None]
    truth = Prediction(
        image_id=None,
        size=(height, width),
        boxes_xyxy=None if bitmaps else torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        names=tuple(one.text or "" for one in regions),
        masks=masks.encode_all((torch.stack(bitmaps) > 0).to(torch.uint8).numpy()) if bitmaps else None,
        regions=() if example is None else (example,),
    )
    return Shown(image, truth, question=question)


def shown_video(
    read: Callable[[VideoRecord, int], np.ndarray],
    record: VideoRecord,
    categories: Sequence[str],
    *,
    has_masks: bool,
) -> Shown:
    """Some frames of a video with what is followed through them; a thing has the same number in all of them.

    Args:
        read: a frame of the record as (height, width, 3) uint8.
        record: tracks in pixels of the frames.
        categories: names, which tracks index.
        has_masks: whether masks are meant.
    """
    last = len(record.frames) - 1
    numbers = sorted({round(step * last / (FRAMES - 1)) for step in range(FRAMES)})
    kept = [track for track in record.objects if not track.crowd]
    question = record.expressions[0] if record.expressions else ""
    frames = []
    for number in numbers:
        seen = [
            (identity, track, box)
            for identity, track in enumerate(kept)
            if (box := track.boxes_xywh[number]) is not None
        ]
        boxes = torch.tensor([box for _, _, box in seen], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        drawn = has_masks and all(track.segmentations[number] for _, track, _ in seen)
        truth = Prediction(
            image_id=record.id,
            size=(record.height, record.width),
            boxes_xyxy=boxes,
            names=tuple("" if question else categories[track.category] for _, track, _ in seen),
            masks=[_rle(track.segmentations[number], record, "video") for _, track, _ in seen] if drawn else None,
            track_ids=torch.tensor([identity for identity, _, _ in seen], dtype=torch.int64),
            frame=number,
        )
        frames.append(Shown(read(record, number), truth))
    return Shown(frames[0].image, frames[0].truth, question=question, frames=tuple(frames))


def _rle(segmentation: object, record: Record | VideoRecord, kind: str) -> masks.Rle:
    where = f"{kind} id {record.id}"
    if isinstance(segmentation, dict):
        return masks.compress(segmentation, where=where)
    assert isinstance(segmentation, list)
    return masks.polygons_to_rle(masks.valid_polygons(segmentation), record.height, record.width, where=where)
