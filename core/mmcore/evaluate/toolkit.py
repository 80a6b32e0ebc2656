"""HOTA, CLEAR, identity scores and track AP by TrackEval (Luiten & Hoffhues), the toolkit of MOTChallenge, BURST and
BDD100K: one category of one video at a time, in the form that its metrics take. It comes with the extra `video`.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as cocomask
from scipy.optimize import linear_sum_assignment

from mmcore.errors import PluginError
from mmcore.evaluate.tracks import Frame, Side, Video

INSTALL = "pip install 'mmcore-trainer[video]'"
NEAR = 0.5
_EPS = float(np.finfo(float).eps)

Drop = Callable[[Video, int, Frame], np.ndarray]
"""Which of a frame's found rows of one category do not count: (found,) bool."""


def require_toolkit(where: str) -> None:
    """Refuse, before anything is predicted, what could not be judged.

    Raises:
        PluginError: TrackEval is not installed.
    """
    if importlib.util.find_spec("trackeval") is None:
        raise PluginError("HOTA, MOTA, IDF1 and track AP need TrackEval", where=where, do=INSTALL)


class Judged(NamedTuple):
    """One metric of one category, over all videos, with TrackEval's names; arrays have one number a threshold."""

    category: int
    figures: Mapping[str, Any]


class Toolkit:
    """Categories judged by some of TrackEval's metrics.

    Args:
        metrics: names of its classes: "HOTA", "CLEAR", "Identity", "TrackMAP".
        categories: ids of those that are judged.
        federated: a video is judged for a category only where that is true of something in it, or listed as absent, and
            `unannotated` does not count; else everything is annotated.
        drop: what else does not count, for all metrics but TrackMAP.

    Raises:
        PluginError: TrackEval is not installed.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        categories: Sequence[int],
        *,
        federated: bool = False,
        drop: Drop | None = None,
    ) -> None:
        require_toolkit("validation")
        from trackeval import metrics as made  # pyright: ignore[reportMissingImports] - an extra

        self.categories, self._federated = list(categories), federated
        self._drop = unannotated if federated else drop
        self._metrics: dict[str, Any] = {name: _made(getattr(made, name)) for name in metrics}
        self._found: dict[str, dict[int, dict[str, Any]]] = {
            name: {category: {} for category in categories} for name in metrics
        }

    def add(self, video: Video, frames: Sequence[Frame]) -> None:
        """Take in one video.

        Args:
            video: both sides.
            frames: those that count; track AP takes all.
        """
        found = set(video.found.categories.tolist())
        # Of other categories nothing would be left after `unannotated`: they are most of what is found.
        found = found & video.listed("neg_category_ids") if self._federated else found
        here = found.union(video.true.categories.tolist())
        for category in here.intersection(self.categories):
            views = [_only(video, frame, category) for frame in frames]
            for name, metric in self._metrics.items():
                data = _tracks(video, category) if name == "TrackMAP" else self._rows(video, category, views)
                self._found[name][category][str(video.record.id)] = metric.eval_sequence(data)

    def judged(self, name: str) -> list[Judged]:
        """One metric for each category."""
        found = self._found[name]
        return [
            Judged(category, self._metrics[name].combine_sequences(videos))
            for category, videos in found.items()
            if videos
        ]

    def _rows(self, video: Video, category: int, views: Sequence[Frame]) -> dict[str, Any]:
        """Rows of one category as HOTA, CLEAR and Identity take them: tracks counted from 0."""
        if self._drop is not None:
            views = [
                Frame(view.true, view.found[kept], view.overlap[:, kept])
                for view in views
                for kept in [~self._drop(video, category, view)]
            ]
        true, num_true = _numbered([video.true.tracks[view.true] for view in views])
        found, num_found = _numbered([video.found.tracks[view.found] for view in views])
        return {
            "gt_ids": true,
            "tracker_ids": found,
            "similarity_scores": [view.overlap for view in views],
            "num_gt_ids": num_true,
            "num_tracker_ids": num_found,
            "num_gt_dets": sum(map(len, true)),
            "num_tracker_dets": sum(map(len, found)),
            "num_timesteps": len(views),
        }


def unannotated(video: Video, category: int, frame: Frame) -> np.ndarray:
    """What federated annotations cannot judge: found rows that match nothing true, of a category that the video was not
    searched for in full, or that has nothing true in this frame and is not known to be absent.

    Args:
        frame: rows of the category.
    """
    unmatched = np.ones(len(frame.found), bool)
    overlap = np.where(frame.overlap >= NEAR - _EPS, frame.overlap, 0)
    ours, theirs = linear_sum_assignment(overlap, maximize=True)
    unmatched[theirs[overlap[ours, theirs] > 0]] = False
    absent = not len(frame.true) and category not in video.listed("neg_category_ids")
    if absent or category in video.listed("not_exhaustive_category_ids"):
        return unmatched
    return np.zeros(len(frame.found), bool)


def mean(judged: Sequence[Judged], figure: str) -> float | None:
    """A figure's mean over its thresholds and over categories in which it is defined; None where it is in none."""
    values = np.array([np.mean(one.figures[figure]) for one in judged])
    values = values[values > -1]
    return float(values.mean()) if len(values) else None


def _made(metric: Any) -> Any:
    """TrackEval prints settings unless told not to; HOTA takes none."""
    return metric() if metric.__name__ == "HOTA" else metric({"PRINT_CONFIG": False})


def _only(video: Video, frame: Frame, category: int) -> Frame:
    true, found = (
        side.categories[rows] == category for side, rows in ((video.true, frame.true), (video.found, frame.found))
    )
    return Frame(frame.true[true], frame.found[found], frame.overlap[np.ix_(true, found)])


def _numbered(tracks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Tracks of each frame numbered from 0 without gaps, and how many there are."""
    known = np.unique(np.concatenate([*tracks, np.zeros(0, int)]))
    return [np.searchsorted(known, rows) for rows in tracks], len(known)


def _tracks(video: Video, category: int) -> dict[str, Any]:
    """Whole tracks of one category as TrackMAP takes them, the best first.

    A track is of the category that its first frame says. Found ones count only where the video was searched for the
    category: it has something true of it, or is known to have none.
    """
    searched = category in video.true.categories or category in video.listed("neg_category_ids")
    data: dict[str, Any] = {}
    for key, side, counts in (("gt", video.true, True), ("dt", video.found, searched)):
        rows = _of_category(side, category) if counts else []
        scores = np.array([side.scores[one].mean() for one in rows])
        order = np.argsort(-scores, kind="stable") if key == "dt" else range(len(rows))
        rows = [rows[place] for place in order]
        data[f"{key}_tracks"] = [{int(side.frames[i]): side.shapes[i] for i in one} for one in rows]
        data[f"{key}_track_ids"] = list(range(1, 1 + len(rows)))  # theirs takes 0 for none
        data[f"{key}_track_lengths"] = [len(one) for one in rows]
        data[f"{key}_track_areas"] = [_areas([side.shapes[i] for i in one]).mean() for one in rows]
        data[f"{key}_track_scores"] = scores[order] if len(rows) else scores
    shapes = [*video.true.shapes[:1], *video.found.shapes[:1]]
    data["iou_type"] = "mask" if shapes and isinstance(shapes[0], dict) else "bbox"
    data["not_exhaustively_labeled"] = category in video.listed("not_exhaustive_category_ids")
    return data


def _of_category(side: Side, category: int) -> list[np.ndarray]:
    """Rows of each track that begins as the category."""
    _, first, inverse = np.unique(side.tracks, return_index=True, return_inverse=True)
    return [np.flatnonzero(inverse == place) for place, row in enumerate(first) if side.categories[row] == category]


def _areas(shapes: Sequence[Any]) -> np.ndarray:
    if isinstance(shapes[0], dict):
        rles: Any = list(shapes)
        return np.asarray(cocomask.area(rles), float)
    return np.array([width * height for _, _, width, height in shapes], float)
