"""Videos as protocols of tracking compare them: what is true and what was found, row by row and frame by frame.

A side has one row for each track and frame in which it is seen. Categories are ids of the data set. Where a frame's
rows meet, their overlaps stand in one matrix; every protocol of `tao`, `burst` and `mot` reads those.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as cocomask

from mmcore.contract.values import Id
from mmcore.data.videos import VideoRecord
from mmcore.errors import DataError
from mmcore.evaluate.ground_truth import Item, in_order
from mmcore.evaluate.youtube_vis import YoutubeVisEvaluator, frame_shape
from mmcore.geometry import masks


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What is true of a video, or what was found; all arrays are (rows,), sorted by frame."""

    frames: np.ndarray
    """Counted from 0."""
    tracks: np.ndarray
    """Counted from 0 within the video."""
    categories: np.ndarray
    """Ids of the data set."""
    scores: np.ndarray
    """1 for what is true."""
    shapes: Sequence[Any]
    """A compressed RLE mask, or a box (x, y, width, height), pixels."""

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int, float, Any]]) -> "Side":
        """From rows of frame, track, category, score and shape."""
        ordered = sorted(rows, key=lambda row: row[0])
        frames, tracks, categories, scores, shapes = zip(*ordered, strict=True) if ordered else ((),) * 5
        whole = [np.array(column, int) for column in (frames, tracks, categories)]
        return cls(whole[0], whole[1], whole[2], np.array(scores, float), list(shapes))


class Frame(NamedTuple):
    """One frame: rows of both sides, and how much they overlap."""

    true: np.ndarray
    """(true,) rows of the true side."""
    found: np.ndarray
    """(found,) rows of the other side."""
    overlap: np.ndarray
    """(true, found) intersection over union."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """One video with both sides."""

    record: VideoRecord
    true: Side
    found: Side
    frames: Sequence[Frame]
    """One for each frame of the record."""

    def listed(self, field: str) -> frozenset[int]:
        """Category ids that the annotation file lists for the video under `field`."""
        return frozenset((self.record.category_lists or {}).get(field, ()))


class TracksEvaluator(YoutubeVisEvaluator):
    """What protocols of tracking share: they see masks where there are any, else boxes.

    Attributes:
        without: names of categories that play no part.
        most: detections of a frame that count, the best first; None is all.
        least_score: from which a detection counts.
    """

    without: Collection[str] = ()
    most: int | None = None
    least_score: float = 0.0

    @property
    def overlap(self) -> str:
        """What is compared: "segm" or "bbox"."""
        return "segm" if "segm" in self.iou_types else "bbox"

    def names(self) -> dict[int, str]:
        """Category id -> name, those that play a part."""
        meta = self.records.index.meta
        pairs = zip(meta["category_ids"], meta["categories"], strict=True)
        return {id_: name for id_, name in pairs if name not in self.without and id_ not in self._same_as}

    def videos(self, items: Sequence[Item]) -> Iterator[Video]:
        """Each video among the items, in order of its id.

        Raises:
            DataError: a video that is not annotated.
        """
        records: dict[Any, VideoRecord] = {record.id: record for record in self.records.whole()}
        names = self.names()
        for id_, frames in by_video(items, records, str(self.annotations)).items():
            record = records[id_]
            true, found = self._true_side(record, names), self._found_side(frames, names)
            yield Video(record, true, found, list(_frames(true, found, len(record.frames))))

    def _true_side(self, record: VideoRecord, names: Mapping[int, str]) -> Side:
        ids: list[int] = self.records.index.meta["category_ids"]
        rows: list[tuple[int, int, int, float, Any]] = []
        for number, track in enumerate(track for track in record.objects if not track.crowd):
            category = self._same_as.get(ids[track.category], ids[track.category])
            shapes = track.segmentations if self.overlap == "segm" else track.boxes_xywh
            for frame, shape in enumerate(shapes):
                if shape is not None and category in names:
                    rows.append((frame, number, category, 1.0, frame_shape(shape, record)))
        return Side.of(rows)

    def _found_side(self, frames: Mapping[int, Item], names: Mapping[int, str]) -> Side:
        numbers: dict[int, int] = {}
        rows: list[tuple[int, int, int, float, Any]] = []
        for frame, item in sorted(frames.items()):
            shapes = item["masks"] if self.overlap == "segm" else item["boxes"]
            for row, category in self.shown(item):
                if category in names and item["scores"][row] >= self.least_score:
                    track = numbers.setdefault(item["track_ids"][row], len(numbers))
                    rows.append((frame, track, category, item["scores"][row], shapes[row]))
        return Side.of(rows)

    def shown(self, item: Item) -> list[tuple[int, int]]:
        """Rows of a frame that say anything, and the category of each: of a category that the file has, not empty, and
        among the `most` that score best."""
        order = sorted(range(len(item["scores"])), key=lambda row: -item["scores"][row])[: self.most]
        categories = [(row, int(self.category_ids[item["labels"][row]])) for row in sorted(order)]
        if self.overlap == "segm":
            return [(row, id_) for row, id_ in categories if id_ >= 0 and masks.area(item["masks"][row]) > 0]
        return [(row, id_) for row, id_ in categories if id_ >= 0 and min(item["boxes"][row][2:]) > 0]


def by_video(items: Sequence[Item], known: Collection[Id], where: str) -> dict[Id, dict[int, Item]]:
    """Items by video and frame, each once however many processes saw it, in order of the videos' ids.

    Raises:
        DataError: a video that is not known.
    """
    found: dict[Any, dict[int, Item]] = {}
    for item in items:
        if item["image_id"] not in known:
            raise DataError(f"video {item['image_id']} is not annotated", where=where)
        found.setdefault(item["image_id"], {})[item["frame"]] = item
    return {id_: found[id_] for id_ in in_order(found)}


def _frames(true: Side, found: Side, length: int) -> Iterator[Frame]:
    """Rows of each frame and their overlaps."""
    starts = [np.searchsorted(side.frames, np.arange(length + 1)) for side in (true, found)]
    for frame in range(length):
        ours, theirs = (np.arange(first[frame], first[frame + 1]) for first in starts)
        overlap = np.zeros((len(ours), len(theirs)))
        if len(ours) and len(theirs):
            pair = _as_coco([true.shapes[i] for i in ours]), _as_coco([found.shapes[i] for i in theirs])
            overlap = np.asarray(cocomask.iou(pair[0], pair[1], [0] * len(theirs)))
        yield Frame(ours, theirs, overlap)


def _as_coco(shapes: Sequence[Any]) -> Any:
    return list(shapes) if isinstance(shapes[0], dict) else np.asarray(shapes, float)
