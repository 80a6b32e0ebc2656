"""Video instance segmentation by the protocol of YouTube-VIS (Yang et al. 2019): COCO's AP with tracks for objects.

The overlap of two tracks is the sum over all frames of what both cover over the sum of what either covers, of masks
or of boxes; a track's area is its mean over the frames in which it is seen. AssA says whether what is found keeps its
identity (`mmcore.evaluate.association`), of the tracks that score at least 0.3.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as cocomask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.data.videos import VideoRecord, VideoRecords
from mmcore.errors import DataError, ShapeError
from mmcore.evaluate.association import CONFIDENT, Association
from mmcore.evaluate.coco import mean_defined, quietly
from mmcore.evaluate.ground_truth import Item, in_order, item_of
from mmcore.geometry import masks

Overlap = Literal["bbox", "segm"]

AREAS = {"": (0.0, 1e10), "s": (0.0, 128.0**2), "m": (128.0**2, 256.0**2), "l": (256.0**2, 1e10)}
"""Mean area of a track, pixels."""
PARTITIONS = {"APb": (0, 1), "APn": (2, 3)}
"""Base and novel categories by the partition that LV-VIS's file gives them (Wang et al. 2023)."""
SMALLEST = 5
"""Masks of no more pixels have no box in the published result file."""


class YoutubeVisEvaluator(Evaluator):
    """AP and AR of tracks over the videos that were taken in.

    Args:
        records: of the validation set.
        iou_types: "bbox", "segm" or both.
        category_ids: dataset id of each contiguous label; -1 is a label the file has no category for.
        same_as: category id -> the id of the category that it is the same as.
        max_detections: limits on tracks per video.
    """

    def __init__(
        self,
        records: VideoRecords,
        *,
        iou_types: Sequence[Overlap] = ("bbox", "segm"),
        category_ids: Sequence[int] | None = None,
        same_as: Mapping[int, int] | None = None,
        max_detections: tuple[int, int, int] = (1, 10, 100),
    ) -> None:
        self.records = records
        self.annotations = Path(records.index.label)
        self.iou_types = tuple(iou_types)
        self.category_ids = list(records.index.meta["category_ids"] if category_ids is None else category_ids)
        self.max_detections = max_detections
        self.category_ap: dict[str, dict[str, float]] = {}
        """AP of each category by name, for each kind of overlap; filled by `summarise`."""
        self._same_as = dict(same_as or {})
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every figure of every kind of overlap; one that is undefined in the data is left out of the summary."""
        sizes = [size for size in AREAS if size]
        recalls = [f"AR@{limit}" for limit in self.max_detections]
        parts = PARTITIONS if "partitions" in self.records.index.meta else ()
        names = ("AP", "AP50", "AP75", *parts, *(f"AP{size}" for size in sizes), *recalls, "AssA")
        return tuple(f"{overlap}/{name}" for overlap in self.iou_types for name in names)

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in every frame of some videos."""
        for prediction in predictions:
            assert prediction.track_ids is not None
            tracks = {"frame": prediction.frame, "track_ids": prediction.track_ids.tolist()}
            self._items.append({**item_of(prediction), **tracks})

    def state(self) -> list[Item]:
        """One JSON item per frame taken in."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Tracks in the result format of YouTube-VIS, with the data set's category ids.

        Raises:
            DataError: a video that is not annotated.
            ShapeError: a label the data set does not have.
        """
        lengths = {record.id: len(record.frames) for record in self.records.whole()}
        found: dict[tuple[Any, int], dict[str, Any]] = {}
        for item in items:
            length = lengths.get(item["image_id"])
            if length is None:
                raise DataError(f"video {item['image_id']} is not annotated", where=self.annotations)
            for row, (track, label, score) in enumerate(zip(item["track_ids"], item["labels"], item["scores"])):
                if not 0 <= label < len(self.category_ids):
                    raise ShapeError(f"label {label} of {len(self.category_ids)} categories", where=item["image_id"])
                if self.category_ids[label] < 0:
                    continue
                entry = found.setdefault(
                    (item["image_id"], track),
                    {
                        "video_id": item["image_id"],
                        "category_id": self.category_ids[label],
                        "score": score,
                        "segmentations": [None] * length,
                        "bboxes": [None] * length,
                    },
                )
                mask = None if item.get("masks") is None else item["masks"][row]
                if mask is not None:
                    entry["segmentations"][item["frame"]] = mask
                if item["boxes"] and (mask is None or masks.area(mask) > SMALLEST):
                    entry["bboxes"][item["frame"]] = item["boxes"][row]
        return list(found.values())

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every video among the items."""
        return self.judge(self.results(items), in_order(item["image_id"] for item in items))

    def judge(self, tracks: Sequence[dict[str, Any]], video_ids: Sequence[Any]) -> dict[str, float]:
        """Metrics of tracks in the result format.

        Args:
            tracks: with `video_id`, `category_id`, `score`, and `segmentations` or `bboxes`.
            video_ids: what is judged.
        """
        wanted = set(video_ids)
        truth = [record for record in self.records.whole() if record.id in wanted]
        metrics: dict[str, float] = {}
        for overlap in self.iou_types:
            evaluation = _TrackEval(self._dataset(self._true(truth, overlap), video_ids), overlap)
            evaluation.found = self._dataset([_as_annotation(track, overlap) for track in tracks], video_ids)
            evaluation.params.catIds = sorted({id_ for id_ in self.category_ids if id_ >= 0})
            evaluation.params.imgIds = list(range(1, len(video_ids) + 1))
            evaluation.params.maxDets = list(self.max_detections)
            with quietly():
                evaluation.cocoDt = evaluation.found
                evaluation.evaluate()
                evaluation.accumulate()
            metrics |= {f"{overlap}/{name}": value for name, value in self._metrics(evaluation).items()}
            if (kept := _association(evaluation)) is not None:
                metrics[f"{overlap}/AssA"] = kept
            self.category_ap[overlap] = self._per_category(evaluation)
        return metrics

    def _true(self, records: Sequence[VideoRecord], overlap: Overlap) -> list[dict[str, Any]]:
        ids = self.records.index.meta["category_ids"]
        return [
            _as_annotation(
                {
                    "video_id": record.id,
                    "category_id": self._same_as.get(ids[track.category], ids[track.category]),
                    "segmentations": [frame_shape(shape, record) for shape in track.segmentations],
                    "bboxes": list(track.boxes_xywh),
                    "iscrowd": int(track.crowd),
                },
                overlap,
            )
            for record in records
            for track in record.objects
        ]

    def _dataset(self, annotations: Sequence[dict[str, Any]], video_ids: Sequence[Any]) -> COCO:
        names = zip(self.records.index.meta["category_ids"], self.records.index.meta["categories"], strict=True)
        numbers = {id_: number for number, id_ in enumerate(video_ids, 1)}  # COCOeval cannot sort text among numbers
        coco: Any = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in numbers.values()],
            "annotations": [
                {**one, "id": number, "image_id": numbers[one["image_id"]]} for number, one in enumerate(annotations, 1)
            ],
            "categories": [{"id": id_, "name": name} for id_, name in names],
        }
        with quietly():
            coco.createIndex()
        return coco

    def _metrics(self, evaluation: Any) -> dict[str, float]:
        precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
        thresholds = evaluation.params.iouThrs
        values: dict[str, float | None] = {"AP": mean_defined(precision[..., 0, -1])}
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            values[name] = mean_defined(precision[np.isclose(thresholds, threshold)][..., 0, -1])
        for row, suffix in enumerate(AREAS):
            if suffix:
                values[f"AP{suffix}"] = mean_defined(precision[..., row, -1])
        for name, members in PARTITIONS.items():
            values[name] = mean_defined(precision[:, :, self._within(members, evaluation.params.catIds), 0, -1])
        for row, limit in enumerate(self.max_detections):
            values[f"AR@{limit}"] = mean_defined(recall[:, :, 0, row])
        return {name: value for name, value in values.items() if value is not None}

    def _within(self, members: tuple[int, ...], category_ids: Sequence[int]) -> np.ndarray:
        """(categories,) bool: those of some partitions."""
        meta = self.records.index.meta
        known = dict(zip(meta["category_ids"], meta.get("partitions", ()), strict=False))
        return np.array([known.get(id_) in members for id_ in category_ids], bool)

    def _per_category(self, evaluation: Any) -> dict[str, float]:
        names = dict(zip(self.records.index.meta["category_ids"], self.records.index.meta["categories"], strict=True))
        precision = np.asarray(evaluation.eval["precision"])
        values = {names[id_]: mean_defined(precision[:, :, k, 0, -1]) for k, id_ in enumerate(evaluation.params.catIds)}
        return {name: value for name, value in values.items() if value is not None}


class _TrackEval(COCOeval):
    """COCO's matching and curves over tracks: `image_id` is the video."""

    found: COCO
    _gts: dict[Any, list[Any]]
    _dts: dict[Any, list[Any]]

    def __init__(self, truth: COCO, overlap: Overlap) -> None:
        super().__init__(truth, COCO(), "segm")
        self.overlap = overlap
        self.params.areaRng = [list(limits) for limits in AREAS.values()]
        self.params.areaRngLbl = list(AREAS)

    def _prepare(self) -> None:
        keys: dict[str, Any] = {"imgIds": self.params.imgIds, "catIds": self.params.catIds}
        for api, into in ((self.cocoGt, self._gts), (self.cocoDt, self._dts)):
            for one in api.loadAnns(api.getAnnIds(**keys)):
                into[one["image_id"], one["category_id"]].append({**one, "ignore": one.get("iscrowd", 0)})
        self.evalImgs, self.eval = {}, {}  # type: ignore[assignment]

    def computeIoU(self, imgId: Any, catId: int) -> Any:  # noqa: N802, N803 - theirs
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth and not found:
            return []
        found = sorted(found, key=lambda one: -one["score"])[: self.params.maxDets[-1]]
        if not truth or not found:
            return np.zeros((len(found), len(truth)))
        return track_overlaps(
            [one["frames"] for one in found], [one["frames"] for one in truth], [one["iscrowd"] for one in truth]
        )


def _association(evaluation: _TrackEval) -> float | None:
    """Association accuracy of confident tracks, crowds left out."""
    result = Association()
    apis: tuple[Any, Any] = (evaluation.cocoGt, evaluation.found)
    for video in evaluation.params.imgIds:
        true, found = (api.loadAnns(api.getAnnIds(imgIds=[video])) for api in apis)
        result.add(
            [one["frames"] for one in true if not one["iscrowd"]],
            [one["frames"] for one in found if one["score"] >= CONFIDENT],
        )
    return result.mean


def track_overlaps(found: Sequence[Any], truth: Sequence[Any], crowd: Sequence[int]) -> np.ndarray:
    """Overlap of every found track with every true one.

    Args:
        found: one list of masks or boxes a track, with None where it is not seen.
        truth: the same.
        crowd: of each true track, whether only what is found of it counts as the whole.
    """
    shared = np.zeros((len(found), len(truth)))
    found_area, true_area = np.zeros(len(found)), np.zeros(len(truth))
    length = max(len(frames) for frames in (*found, *truth))
    for frame in range(length):
        rows = [i for i, frames in enumerate(found) if frame < len(frames) and frames[frame] is not None]
        columns = [i for i, frames in enumerate(truth) if frame < len(frames) and frames[frame] is not None]
        here, there = [found[i][frame] for i in rows], [truth[i][frame] for i in columns]
        sizes, true_sizes = _areas(here), _areas(there)
        np.add.at(found_area, rows, sizes)
        np.add.at(true_area, columns, true_sizes)
        if here and there:
            ratio = np.asarray(cocomask.iou(_shapes(here), _shapes(there), [0] * len(there)))
            total = sizes[:, None] + true_sizes[None]
            shared[np.ix_(rows, columns)] += total * ratio / (1 + ratio)
    either = np.where(np.asarray(crowd, bool)[None], found_area[:, None], found_area[:, None] + true_area - shared)
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)


def _shapes(shapes: Sequence[Any]) -> Any:
    """Masks, or boxes as pycocotools takes them."""
    return list(shapes) if isinstance(shapes[0], dict) else np.asarray(shapes, float)


def frame_shape(shape: Any, record: VideoRecord) -> Any:
    """A mask as run lengths where it is polygons; anything else as it is."""
    if isinstance(shape, list):
        return masks.polygons_to_rle(shape, record.height, record.width)
    return shape


def _areas(shapes: Sequence[Any]) -> np.ndarray:
    if not shapes:
        return np.zeros(0)
    if isinstance(shapes[0], dict):
        rles: Any = list(shapes)
        return np.asarray(cocomask.area(rles), float)
    return np.array([width * height for _, _, width, height in shapes], float)


def _as_annotation(track: Mapping[str, Any], overlap: Overlap) -> dict[str, Any]:
    """A track as the judge takes it: the shapes of its frames and their mean area."""
    frames = track["segmentations" if overlap == "segm" else "bboxes"]
    seen = [shape for shape in frames if shape is not None]
    area = float(_areas(seen).mean()) if seen else 0.0
    return {
        "image_id": track["video_id"],
        "category_id": track["category_id"],
        "score": track.get("score", 1.0),
        "iscrowd": track.get("iscrowd", 0),
        "frames": list(frames),
        "area": area,
    }
