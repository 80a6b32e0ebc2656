"""Objects segmented through videos by the protocol of DAVIS: J, F and their mean J&F (Pont-Tuset et al. 2017).

Every pixel of a frame belongs to at most one found track, the one that scores best there, of 20 a video at most. True
tracks are paired with found ones one to one so that J is greatest, as TrackEval does; a true track without a partner
scores with empty masks. A video that refers to one thing has one partner, the best. Figures are means over true tracks
of their means over frames.

What is found is written as the servers of DAVIS, YouTube-VOS and Ref-YouTube-VOS take it: `Annotations/VIDEO/FRAME.png`
with a palette, or `Annotations/VIDEO/EXPRESSION/FRAME.png`, where 0 is nothing and 1, 2, ... are tracks.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from mmcore.base.files import replace_bytes
from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.data.videos import Track, VideoRecord, VideoRecords
from mmcore.errors import DataError
from mmcore.evaluate.ground_truth import Item, in_order, item_of
from mmcore.evaluate.region_boundary import boundary, regions
from mmcore.geometry import masks

MOST = 20
"""Tracks of a video that are judged and written."""
FOLDER = "Annotations"


class VideoObjectsEvaluator(Evaluator):
    """J and F over the videos that were taken in.

    Args:
        records: of the validation set.
        iou_types: must have "segm".
        others: what a family says about categories, which play no part here.
    """

    def __init__(self, records: VideoRecords, *, iou_types: Sequence[str] = ("segm",), **others: Any) -> None:
        del others
        self.records, self.annotations = records, Path(records.index.label)
        if "segm" not in iou_types:
            raise DataError("J and F need masks, and the videos have none", where=self.annotations)
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Means over true tracks, and in how many frames each passes a half."""
        return ("J&F", "J", "F", "J-recall", "F-recall")

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in every frame of some videos."""
        for prediction in predictions:
            assert prediction.track_ids is not None
            tracks = {"frame": prediction.frame, "track_ids": prediction.track_ids.tolist()}
            self._items.append({**item_of(prediction), **tracks})

    def state(self) -> list[Item]:
        """One JSON item per frame taken in."""
        return self._items

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every annotated video among the items; none where no video has annotations."""
        rows = [row for record, frames in self._videos(items) for row in _judge(record, label_maps(record, frames))]
        if not rows:
            return {}
        j, f, j_recall, f_recall = np.mean(rows, 0).tolist()
        return {"J&F": (j + f) / 2, "J": j, "F": f, "J-recall": j_recall, "F-recall": f_recall}

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """Write one picture of numbers a frame, in the folders that the servers ask for."""
        folders = folders_of(self.records)
        for record, frames in self._videos(items):
            place = folder / FOLDER / folders[record.id]
            place.mkdir(parents=True, exist_ok=True)
            for name, found in zip(record.frames, label_maps(record, frames), strict=True):
                replace_bytes(place / f"{PurePosixPath(name).stem}.png", as_png(found))

    def _videos(self, items: Sequence[Item]) -> Iterator[tuple[VideoRecord, Mapping[int, Item]]]:
        known = {record.id: record for record in self.records.whole()}
        by_video: dict[Any, dict[int, Item]] = {}
        for item in items:
            if item["image_id"] not in known:
                raise DataError(f"video {item['image_id']} is not annotated", where=self.annotations)
            by_video.setdefault(item["image_id"], {})[item["frame"]] = item
        for video in in_order(by_video):
            yield known[video], by_video[video]


def label_maps(record: VideoRecord, frames: Mapping[int, Item]) -> np.ndarray:
    """(frames, height, width) uint8: which of the best tracks a pixel belongs to, from 1; 0 is none."""
    best: dict[int, float] = {}
    for item in frames.values():
        for track, score in zip(item["track_ids"], item["scores"], strict=True):
            best[track] = max(score, best.get(track, score))
    most = 1 if record.expressions else MOST
    ranks = {track: rank for rank, track in enumerate(sorted(best, key=lambda one: -best[one])[:most], 1)}
    found = np.zeros((len(record.frames), record.height, record.width), np.uint8)
    for frame, item in frames.items():
        shown = [(ranks[track], row) for row, track in enumerate(item["track_ids"]) if track in ranks]
        for rank, row in sorted(shown, reverse=True):  # the best last, above the others
            found[frame][masks.decode(item["masks"][row]).astype(bool)] = rank
    return found


def folders_of(records: VideoRecords) -> dict[Any, str]:
    """Folder of each video's results by id: that of its frames. Where videos have expressions, one folder below it for
    each, numbered from 0 in the order of the file."""
    told: dict[str, int] = {}
    folders = {}
    for record in records.whole():
        video = PurePosixPath(record.frames[0]).parent.name if record.frames else ""
        video = video or str(record.id)
        number = told.get(video, 0)
        told[video] = number + 1
        folders[record.id] = f"{video}/{number}" if record.expressions else video
    return folders


def as_png(labels: np.ndarray) -> bytes:
    """(height, width) uint8 as a picture with a palette, colours as PASCAL VOC has them."""
    image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    image.putpalette(palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def palette() -> list[int]:
    """256 colours, three numbers each: the lowest bits of the number go to the highest of red, green and blue."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * place + channel)) & 1 for place in range(3)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


def _judge(record: VideoRecord, found: np.ndarray) -> list[tuple[float, float, float, float]]:
    """J, F and their recalls of each true track."""
    true = [_decoded(track, record) for track in record.objects if not track.crowd]
    if not true:
        return []
    j = regions(np.stack(true), found)
    ours, theirs = linear_sum_assignment(j.mean(-1), maximize=True)
    rows = []
    for one, other in zip(ours, theirs, strict=True):
        f = np.array([boundary(*pair) for pair in zip(true[one], found == other + 1, strict=True)])
        shared = j[one, other]
        rows.append((shared.mean(), f.mean(), (shared > 0.5).mean(), (f > 0.5).mean()))
    return rows


def _decoded(track: Track, record: VideoRecord) -> np.ndarray:
    """(frames, height, width) bool."""
    result = np.zeros((len(record.frames), record.height, record.width), bool)
    for frame, shape in enumerate(track.segmentations):
        if shape is not None:
            rle = masks.polygons_to_rle(shape, record.height, record.width) if isinstance(shape, list) else shape
            result[frame] = masks.decode(rle)
    return result
