"""The boxes of an answer as evaluations take them: by the published rule, or with whole names."""

import numpy as np
from mmcore.evaluate.spoken_boxes import Item
from mmcore.geometry.boxes import xyxy_to_xywh

from mmcore_griffon.answers import Extracted, extract, read, says_nothing


def boxes_of(text: str) -> list[Extracted]:
    """The boxes of an answer; none where the published reader stops at a piece of it."""
    try:
        return extract(text)
    except ValueError:
        return []


def read_boxes(text: str) -> list[tuple[float, ...]] | None:
    """Fractions of the picture; none where the answer says so, None where nothing can be read."""
    found = [one.box[:4] for one in boxes_of(text)]
    return found if found or says_nothing(text) else None


def published(item: Item) -> tuple[list[tuple[str, list[float]]], list[float] | None]:
    """Classes, boxes (xywh, pixels) and confidences by the published rule: a class follows the last hyphen."""
    found = boxes_of(item["text"])
    # Sizes are taken of fractions, then made single precision and scaled.
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (one.box[:4] for one in found)]
    height, width = item["size"]
    pixels = np.array(boxes, np.float32).reshape(-1, 4) * np.array([width, height, width, height], np.float32)
    return list(zip([one.name for one in found], pixels.tolist())), item["confidence"]


def whole(item: Item) -> tuple[list[tuple[str, list[float]]], list[float] | None]:
    """The same with all that stands before a box for its class: own classes may be called "t-shirt"."""
    said = read(item["text"], tuple(item["size"]), item["confidence"] or ())
    boxes = xyxy_to_xywh(said["boxes_xyxy"]).tolist() if "boxes_xyxy" in said else []
    scores = said["scores"].tolist() if item["confidence"] and boxes else item["confidence"] and []
    return list(zip(said.get("names", ()), boxes)), scores
