"""Tracking of TAO's many categories (Dave et al. 2020), boxes annotated once a second and not of everything.

TETA and its parts are what GLEE reports (`mmcore.evaluate.teta`); AP is TAO's own track AP (TrackEval), of tracks whose
categories the video was searched for, and is left out where the annotation file does not say what it was searched for.
`predictions.json` is the result file of both toolkits: one record a box, with the ids of the file's frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmcore.data.videos import VideoRecord
from mmcore.evaluate.ground_truth import Item
from mmcore.evaluate.teta import Teta
from mmcore.evaluate.toolkit import Toolkit, mean, require_toolkit
from mmcore.evaluate.tracks import TracksEvaluator, Video, by_video

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


class TaoEvaluator(TracksEvaluator):
    """TETA and track AP over the videos that were taken in; see `YoutubeVisEvaluator`.

    Raises:
        PluginError: TrackEval is not installed.
    """

    most = 300

    def __init__(self, *args: Any, **settings: Any) -> None:
        require_toolkit("validation by TAO's protocol")
        super().__init__(*args, **{**settings, "iou_types": ("bbox",)})

    @property
    def metric_names(self) -> tuple[str, ...]:
        """TETA and its parts, track AP at ten overlaps, at a half and at three quarters, and recall."""
        return ("TETA", "LocA", "AssocA", "ClsA", "AP", "AP50", "AP75", "AR")

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every video among the items, means over the categories that anything true is of."""
        videos = list(self.videos(items))
        categories = annotated(videos)
        teta, toolkit = Teta(categories), Toolkit(["TrackMAP"], categories, federated=True)
        for video in videos:
            teta.add(video)
            toolkit.add(video, ())
        names = self.names()
        self.category_ap = {"TETA": {names[id_]: value for id_, value in teta.by_category().items()}}
        searched = any((video.record.category_lists or {}).get(name) is not None for video in videos for name in LISTS)
        return {**teta.figures(), **(track_ap(toolkit) if searched else {})}

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Every box in TAO's result format; a frame without an id of its own has its number in the video."""
        records: dict[Any, VideoRecord] = {record.id: record for record in self.records.whole()}
        tracks: dict[tuple[Any, int], int] = {}
        found: list[dict[str, Any]] = []
        for id_, frames in by_video(items, records, str(self.annotations)).items():
            ids = records[id_].frame_ids or range(len(records[id_].frames))
            for frame, item in sorted(frames.items()):
                found.extend(
                    {
                        "image_id": ids[frame],
                        "video_id": id_,
                        "category_id": category,
                        "track_id": tracks.setdefault((id_, item["track_ids"][row]), len(tracks) + 1),
                        "bbox": item["boxes"][row],
                        "score": item["scores"][row],
                    }
                    for row, category in self.shown(item)
                )
        return found


def annotated(videos: Sequence[Video]) -> list[int]:
    """Ids of the categories that anything true is of, in order."""
    return sorted({int(category) for video in videos for category in np.unique(video.true.categories)})


def track_ap(toolkit: Toolkit) -> dict[str, float]:
    """AP of whole tracks, of all sizes and lengths: mean over categories."""
    judged = toolkit.judged("TrackMAP")
    halves = [(one.figures["AP_all"][0], one.figures["AP_all"][5]) for one in judged]
    values: Mapping[str, float | None] = {
        "AP": mean(judged, "AP_all"),
        "AP50": float(np.mean([half for half, _ in halves])) if halves else None,
        "AP75": float(np.mean([most for _, most in halves])) if halves else None,
        "AR": mean(judged, "AR_all"),
    }
    return {name: value for name, value in values.items() if value is not None}
