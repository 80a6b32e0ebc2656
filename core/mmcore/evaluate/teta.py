"""Track Every Thing Accuracy: finding, following and naming judged apart (Li et al. 2022, "Tracking Every Thing in the
Wild"), as TAO is judged; no package index has the authors' toolkit (SysCV/tet), whose figures these are.

What is found plays a part only where it overlaps something true by half, so that things nobody annotated cost nothing.
For each category, the true tracks and all found ones that overlap them anywhere, whatever they are called, are paired
frame by frame in favour of pairs that belong together over the video:

    LocA    TP / (TP + FN + FP) of finding, at overlaps 0, 0.05 .. 0.95
    AssocA  of pairs that met, frames in which they did over frames in which either is seen
    ClsA    TP / (TP + FN + FP) of the found names, at overlaps 0.5, 0.55 .. 0.95
    TETA    their mean

all means over categories. A found thing that another category's truth holds in a frame is no false one there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from mmcore.evaluate.association import alignment, share
from mmcore.evaluate.tracks import Frame, Video

NEAR = 0.5
"""Overlap from which what is found plays a part."""
LEVELS = np.arange(0.0, 0.99, 0.05)
NAMED = LEVELS >= NEAR
"""The levels at which names are judged."""
_EPS = float(np.finfo(float).eps)


@dataclass(slots=True)
class _Sums:
    """Of one category over all videos; one number a level."""

    found: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    missed: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    false: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    followed: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    """Sum of the association accuracy over pairs that met."""
    named: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    misnamed: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    """Of this category's things."""
    miscalled: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    """Other categories' things that were given this name."""


class Teta:
    """Sums over videos.

    Args:
        categories: ids of those that are judged: all that anything true is of, in any video.
    """

    def __init__(self, categories: Iterable[int]) -> None:
        self._sums = {int(category): _Sums() for category in categories}

    def add(self, video: Video) -> None:
        """Take in one video."""
        frames = [frame for frame in video.frames if len(frame.true)]
        owner = _owners(video, frames)
        for category in np.unique(video.true.categories):
            self._add(int(category), video, frames, owner)

    def figures(self) -> dict[str, float]:
        """TETA, LocA, AssocA and ClsA; empty where there is no category."""
        rows = [_accuracies(sums) for sums in self._sums.values()]
        if not rows:
            return {}
        located, followed, named = np.mean(rows, 0).tolist()
        return {"TETA": (located + followed + named) / 3, "LocA": located, "AssocA": followed, "ClsA": named}

    def by_category(self) -> dict[int, float]:
        """TETA of each category."""
        return {category: float(np.mean(_accuracies(sums))) for category, sums in self._sums.items()}

    def _add(self, category: int, video: Video, frames: list[Frame], owner: np.ndarray) -> None:
        """One category of one video: `owner` is the true row that holds each found row, -1 for none."""
        true, found, sums = video.true, video.found, self._sums[category]
        held_elsewhere = (owner >= 0) & (true.categories[owner] != category)
        views = [_only(frame, true.categories[frame.true] == category) for frame in frames]
        near = [view.found[(view.overlap >= NEAR).any(0) & ~held_elsewhere[view.found]] for view in views]
        if not sum(map(len, near)):
            sums.missed += sum(len(view.true) for view in views)
            return
        part = np.isin(found.tracks, np.unique(found.tracks[np.concatenate(near)]))
        views = [_among(view, part) for view in views]
        met = np.zeros((len(LEVELS), 1 + true.tracks.max(), 1 + found.tracks.max()))
        counts, pairs = _paired(video, views)
        for view, close, (ours, theirs) in zip(views, near, pairs, strict=True):
            if not len(view.true):
                continue
            matched = view.overlap[ours, theirs] >= LEVELS[:, None] - _EPS
            rows = view.found[theirs]
            met[:, true.tracks[view.true[ours]], found.tracks[rows]] += matched
            sums.found += matched.sum(1)
            sums.missed += len(view.true) - matched.sum(1)
            sums.false += len(close) - matched[:, np.isin(rows, close)].sum(1)
            right = found.categories[rows] == category
            sums.named += matched[:, right].sum(1)
            sums.misnamed += matched[:, ~right].sum(1)
            for column in np.flatnonzero(~right):
                if (other := self._sums.get(int(found.categories[rows[column]]))) is not None:
                    other.miscalled += matched[:, column]
        sums.followed += (met * met / np.maximum(1, counts - met)).sum((1, 2))


class _Pairs(NamedTuple):
    """Places within a frame's rows that were paired."""

    true: np.ndarray
    found: np.ndarray


def _paired(video: Video, frames: list[Frame]) -> tuple[np.ndarray, list[_Pairs]]:
    """(true tracks, found tracks) frames in which the two are seen, added; and who is paired in each frame."""
    true, found = video.true.tracks, video.found.tracks
    size = (1 + true.max(initial=-1), 1 + found.max(initial=-1))
    shared, seen_true, seen_found = np.zeros(size), np.zeros(size[0]), np.zeros(size[1])
    for frame in frames:
        rows, columns = true[frame.true], found[frame.found]
        shared[np.ix_(rows, columns)] += share(frame.overlap)
        seen_true[rows] += 1
        seen_found[columns] += 1
    together = alignment(shared, seen_true, seen_found)
    pairs = [
        _Pairs(*linear_sum_assignment(together[np.ix_(true[frame.true], found[frame.found])] * frame.overlap, True))
        for frame in frames
    ]
    return seen_true[:, None] + seen_found, pairs


def _owners(video: Video, frames: list[Frame]) -> np.ndarray:
    """(found rows,) the true row of any category that each is paired with where they overlap by half; -1 for none."""
    owner = np.full(len(video.found), -1)
    close = [frame.found[(frame.overlap >= NEAR).any(0)] for frame in frames]
    if not sum(map(len, close)):
        return owner
    part = np.isin(video.found.tracks, np.unique(video.found.tracks[np.concatenate(close)]))
    views = [_among(frame, part) for frame in frames]
    for view, (ours, theirs) in zip(views, _paired(video, views)[1], strict=True):
        near = view.overlap[ours, theirs] >= NEAR - _EPS
        owner[view.found[theirs[near]]] = view.true[ours[near]]
    return owner


def _only(frame: Frame, true: np.ndarray) -> Frame:
    return Frame(frame.true[true], frame.found, frame.overlap[true])


def _among(frame: Frame, found: np.ndarray) -> Frame:
    """The frame with those of the found rows only that `found`, (found rows of the video,) bool, has."""
    kept = found[frame.found]
    return Frame(frame.true, frame.found[kept], frame.overlap[:, kept])


def _accuracies(sums: _Sums) -> tuple[float, float, float]:
    """LocA, AssocA and ClsA of one category, each the mean over its levels."""
    located = sums.found / np.maximum(1, sums.found + sums.missed + sums.false)
    followed = sums.followed / np.maximum(1, sums.found)
    named = sums.named / np.maximum(1, sums.named + sums.misnamed + sums.miscalled)
    return float(located.mean()), float(followed.mean()), float(named[NAMED].mean())
