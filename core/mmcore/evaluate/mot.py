"""Tracking where everything is annotated (MOTChallenge, BDD100K): HOTA, MOTA and IDF1 by TrackEval.

Figures are means over categories that anything true is of, as BDD100K's mHOTA, mMOTA and mIDF1; identity switches are
added up. Detections count from a score of 0.3, for these protocols know no scores. What lies by half within something
marked as a crowd costs nothing. `mot/VIDEO.txt` are MOTChallenge's result files, `scalabel.json` is BDD100K's.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as cocomask
from scipy.optimize import linear_sum_assignment

from mmcore.base.files import replace_text
from mmcore.data.videos import VideoRecord
from mmcore.evaluate.association import CONFIDENT
from mmcore.evaluate.ground_truth import Item
from mmcore.evaluate.tao import annotated
from mmcore.evaluate.toolkit import NEAR, Toolkit, require_toolkit
from mmcore.evaluate.tracks import Frame, TracksEvaluator, Video
from mmcore.evaluate.youtube_vis import frame_shape

FIGURES = {"HOTA": "HOTA", "DetA": "HOTA", "AssA": "HOTA", "MOTA": "CLEAR", "IDF1": "Identity"}
"""Figure -> the class of TrackEval that gives it."""


class MotEvaluator(TracksEvaluator):
    """HOTA, MOTA and IDF1 over the videos that were taken in; see `YoutubeVisEvaluator`.

    Raises:
        PluginError: TrackEval is not installed.
    """

    least_score = CONFIDENT

    def __init__(self, *args: Any, **settings: Any) -> None:
        require_toolkit("validation by MOTChallenge's protocol")
        super().__init__(*args, **settings)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """HOTA and its halves, MOTA, IDF1 and how often a thing changed its identity."""
        return (*FIGURES, "IDSW")

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every video among the items."""
        videos = list(self.videos(items))
        toolkit = Toolkit(sorted(set(FIGURES.values())), annotated(videos), drop=self._in_crowd)
        for video in videos:
            toolkit.add(video, video.frames)
        names = self.names()
        judged = {name: toolkit.judged(name) for name in set(FIGURES.values())}
        self.category_ap = {"HOTA": {names[one.category]: float(one.figures["HOTA"].mean()) for one in judged["HOTA"]}}
        # MOTA may be below -1 where most of what is found is false, so none of these is left out.
        found = {
            figure: float(np.mean([np.mean(one.figures[figure]) for one in judged[name]]))
            for figure, name in FIGURES.items()
            if judged[name]
        }
        switches = sum(int(one.figures["IDSW"]) for one in judged["CLEAR"])
        return {**found, "IDSW": float(switches)} if found else {}

    def _in_crowd(self, video: Video, category: int, frame: Frame) -> np.ndarray:
        """Found rows that match nothing and lie by half within a crowd."""
        number = int(video.found.frames[frame.found[0]]) if len(frame.found) else 0
        crowds = _crowds(video.record, number, self.overlap) if len(frame.found) else []
        if not crowds:
            return np.zeros(len(frame.found), bool)
        overlap = np.where(frame.overlap >= NEAR, frame.overlap, 0)
        ours, theirs = linear_sum_assignment(overlap, maximize=True)
        alone = np.ones(len(frame.found), bool)
        alone[theirs[overlap[ours, theirs] > 0]] = False
        shapes: Any = [video.found.shapes[row] for row in frame.found]
        shapes, crowds = (shapes, crowds) if self.overlap == "segm" else (np.array(shapes), np.array(crowds))
        inside = np.asarray(cocomask.iou(shapes, crowds, [1] * len(crowds)))  # a crowd's share is of what is found
        return alone & (inside > NEAR).any(1)

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """MOTChallenge's files, one a video, and BDD100K's; where two folders of frames have one name, with ids."""
        place = folder / "mot"
        place.mkdir(exist_ok=True)
        names = self.names()
        frames: list[dict[str, Any]] = []
        videos = list(self.videos(items))
        alike = len({_name(video.record) for video in videos}) < len(videos)
        for video in videos:
            name = f"{_name(video.record)}-{video.record.id}" if alike else _name(video.record)
            replace_text(place / f"{name}.txt", "".join(_lines(video)))
            for number, frame in enumerate(video.frames):
                labels = [self._label(video, row, names) for row in frame.found.tolist()]
                picture = PurePosixPath(video.record.frames[number]).name
                frames.append({"name": picture, "videoName": name, "frameIndex": number, "labels": labels})
        replace_text(folder / "scalabel.json", json.dumps(frames) + "\n")

    def _label(self, video: Video, row: int, names: dict[int, str]) -> dict[str, Any]:
        """One thing in a frame as Scalabel has it: both corners belong to a box."""
        found = video.found
        label: dict[str, Any] = {
            "id": str(found.tracks[row] + 1),
            "category": names[int(found.categories[row])],
            "score": float(found.scores[row]),
        }
        shape = found.shapes[row]
        if isinstance(shape, dict):
            return {**label, "rle": shape}
        x, y, width, height = shape
        return {**label, "box2d": {"x1": x, "y1": y, "x2": x + width - 1, "y2": y + height - 1}}


def _lines(video: Video) -> list[str]:
    """Frame and identity from 1, box, score, and three numbers that mean nothing in two dimensions."""
    lines: list[str] = []
    for row, shape in enumerate(video.found.shapes):
        mask: Any = shape
        x, y, width, height = cocomask.toBbox(mask).tolist() if isinstance(shape, dict) else shape
        frame, track = video.found.frames[row] + 1, video.found.tracks[row] + 1
        lines.append(
            f"{frame},{track},{x:.2f},{y:.2f},{width:.2f},{height:.2f},{video.found.scores[row]:.4f},-1,-1,-1\n"
        )
    return lines


def _name(record: VideoRecord) -> str:
    """The folder of the frames; MOTChallenge keeps them in `SEQUENCE/img1`."""
    parts = [part for part in PurePosixPath(record.frames[0]).parent.parts if part != "img1"] if record.frames else []
    return parts[-1] if parts else str(record.id)


def _crowds(record: VideoRecord, frame: int, overlap: str) -> list[Any]:
    shapes = [
        (track.segmentations if overlap == "segm" else track.boxes_xywh)[frame]
        for track in record.objects
        if track.crowd
    ]
    return [frame_shape(shape, record) for shape in shapes if shape is not None]
