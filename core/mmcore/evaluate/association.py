"""Whether things keep their identity through a video: the association accuracy of HOTA (Luiten et al. 2021).

In every frame, true and found things are paired one to one where they overlap by half, in favour of pairs that belong
together over the whole video. For a pair of tracks that met in `m` frames, of `t` in which the true one and `f` in
which the found one is seen, the accuracy is m / (t + f - m); the figure is its mean over all frames and pairs. Classes
play no part, so what a thing is called and whether it is followed are judged apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as cocomask
from scipy.optimize import linear_sum_assignment

OVERLAP = 0.5
CONFIDENT = 0.3
"""Score from which a found track counts: what `mmcore predict` shows unless told otherwise."""


@dataclass
class Association:
    """Sums over videos."""

    pairs: int = 0
    """Frames and pairs that met."""
    accuracy: float = 0.0

    @property
    def mean(self) -> float | None:
        """From 0 to 1; None where nothing met."""
        return self.accuracy / self.pairs if self.pairs else None

    def add(self, true: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> None:
        """Take in one video.

        Args:
            true: one list of RLE masks, or of boxes (x, y, width, height), a track; None where it is not seen.
            found: the same, of the tracks that count.
        """
        length = max((len(frames) for frames in (*true, *found)), default=0)
        seen_true, seen_found = np.zeros(len(true)), np.zeros(len(found))
        shared = np.zeros((len(true), len(found)))
        frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for frame in range(length):
            rows, columns = _seen(true, frame), _seen(found, frame)
            seen_true[rows] += 1
            seen_found[columns] += 1
            if not len(rows) or not len(columns):
                continue
            overlap = _overlap([true[i][frame] for i in rows], [found[i][frame] for i in columns])
            shared[np.ix_(rows, columns)] += share(overlap)
            frames.append((rows, columns, overlap))
        met = np.zeros_like(shared)
        together = alignment(shared, seen_true, seen_found)
        for rows, columns, overlap in frames:
            ours, theirs = linear_sum_assignment(together[np.ix_(rows, columns)] * overlap, maximize=True)
            near = overlap[ours, theirs] >= OVERLAP
            met[rows[ours[near]], columns[theirs[near]]] += 1
        self.pairs += int(met.sum())
        self.accuracy += float((met * met / np.maximum(seen_true[:, None] + seen_found - met, 1)).sum())


def share(overlap: np.ndarray) -> np.ndarray:
    """(true, found): how much of what meets in a frame is between the two, from their overlaps."""
    either = overlap.sum(0) + overlap.sum(1, keepdims=True) - overlap
    return np.divide(overlap, either, out=np.zeros_like(overlap), where=either > 0)


def alignment(shared: np.ndarray, seen_true: np.ndarray, seen_found: np.ndarray) -> np.ndarray:
    """(true, found): how far two tracks belong together over a whole video.

    Args:
        shared: (true, found) `share` summed over all frames.
        seen_true: (true,) frames in which each is seen.
        seen_found: (found,) the same.
    """
    total = seen_true[:, None] + seen_found
    return np.divide(shared, total - shared, out=np.zeros_like(shared), where=total > shared)


def _seen(tracks: Sequence[Sequence[Any]], frame: int) -> np.ndarray:
    return np.array([i for i, shapes in enumerate(tracks) if frame < len(shapes) and shapes[frame] is not None], int)


def _overlap(true: Sequence[Any], found: Sequence[Any]) -> np.ndarray:
    pair: list[Any] = [list(one) if isinstance(one[0], dict) else np.asarray(one, float) for one in (true, found)]
    return np.asarray(cocomask.iou(pair[0], pair[1], [0] * len(found)))
