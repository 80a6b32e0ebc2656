"""How well masks fit: region similarity J and boundary accuracy F of DAVIS (Perazzi et al. 2016).

J is the overlap of two masks over their union. F is the harmonic mean of how much of the found boundary lies near the
true one and the reverse, where near is 0.8 % of the frame's diagonal, rounded up to whole pixels. Two empty masks
agree.
"""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

NEAR = 0.008
"""Of the diagonal of a frame."""


def regions(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """J of every true track with every found one in every frame, from 0 to 1; two empty masks agree.

    Args:
        true: (tracks, frames, height, width) bool.
        found: (frames, height, width) uint8, which found track a pixel belongs to, from 1.

    Returns:
        (tracks, found, frames); found tracks that are not there, which are empty, make them as many as the true ones.
    """
    count = max(int(found.max(initial=0)), len(true))
    # One pass over a frame counts the pixels of all found tracks, inside a true one and anywhere.
    anywhere = np.stack([np.bincount(frame.ravel(), minlength=count + 1) for frame in found])[:, 1:]
    inside = np.stack(
        [[np.bincount(f[t], minlength=count + 1) for t, f in zip(track, found, strict=True)] for track in true]
    )[..., 1:]
    union = true.sum((2, 3))[..., None] + anywhere - inside
    return np.where(union > 0, inside / np.maximum(union, 1), 1.0).swapaxes(1, 2)


def boundary(true: np.ndarray, found: np.ndarray) -> float:
    """F of two (height, width) masks, from 0 to 1."""
    edges = outline(true), outline(found)
    counts = [int(np.count_nonzero(edge)) for edge in edges]
    if not all(counts):  # one of them found, or missed, in vain; or neither is there
        return float(counts[0] == counts[1])
    reach = math.ceil(NEAR * math.hypot(*true.shape))
    rows, columns = np.nonzero(edges[0] | edges[1])  # nothing outside is asked about, or near to anything
    window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    here, there = (edge[window] for edge in edges)
    recall = np.count_nonzero(here & _near(there, reach)) / counts[0]
    precision = np.count_nonzero(there & _near(here, reach)) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """The (height, width) pixels of a mask that differ from the one to the right, below, or both; one pixel wide."""
    edge = np.zeros(mask.shape, bool)
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _near(edge: np.ndarray, reach: int) -> np.ndarray:
    distances: np.ndarray = distance_transform_edt(~edge)  # type: ignore[assignment]
    return distances <= reach
