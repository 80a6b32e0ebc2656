"""Polygons laid end to end, so that those of all objects of an image are moved and cut in a few array operations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmcore.errors import DataError


class Rings(NamedTuple):
    """Polygons of several objects."""

    points: np.ndarray
    """(points, 2) pixels."""
    lengths: np.ndarray
    """(polygons,) number of points."""
    owners: np.ndarray
    """(polygons,) object each belongs to."""
    whole: np.ndarray
    """(polygons,) whether the file has integers only."""

    @classmethod
    def gather(cls, objects: Sequence[Any], where: str | None) -> "Rings":
        """Of objects that are lists of polygons [x0, y0, x1, y1, ...].

        Raises:
            DataError: a polygon has no three points, or a coordinate is not a number.
        """
        arrays, owners = [], []
        for owner, polygons in enumerate(objects):
            for polygon in polygons:
                if len(polygon) < 6 or len(polygon) % 2:
                    raise DataError(
                        f"polygon has {len(polygon)} numbers; it takes an even count of at least 6", where=where
                    )
                arrays.append(np.asarray(polygon))
                owners.append(owner)
        if any(array.dtype.kind not in "iuf" for array in arrays):
            raise DataError("polygon has a coordinate that is not a number", where=where)
        flat = np.concatenate(arrays).astype(np.float64) if arrays else np.zeros(0)
        lengths = np.array([len(array) // 2 for array in arrays], np.int64)
        whole = np.array([array.dtype.kind in "iu" for array in arrays], bool)
        return cls(flat.reshape(-1, 2), lengths, np.array(owners, np.int64), whole)

    def moved(self, move: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Rings":
        """All points through `move`: of (points, 2) pixels and (points,) whether the file has integers there."""
        return self._replace(points=move(self.points, np.repeat(self.whole, self.lengths)))

    def clipped(self, x0: int, y0: int, width: int, height: int) -> "Rings":
        """Only what lies inside a rectangle in pixels, still in coordinates of the whole image.

        New corners are not whole numbers, so neither is anything after a crop.
        """
        low = np.array([x0, y0], np.float64)
        high = low + np.array([width, height])
        kept: list[np.ndarray] = []
        owners: list[int] = []
        for ring, owner in zip(self._split(), self.owners):
            inside = _clip(ring, low, high)
            if len(inside) >= 3:
                kept.append(inside)
                owners.append(int(owner))
        points = np.concatenate(kept) if kept else np.zeros((0, 2))
        lengths = np.array([len(ring) for ring in kept], np.int64)
        return Rings(points, lengths, np.array(owners, np.int64), np.zeros(len(kept), bool))

    def _split(self) -> list[np.ndarray]:
        return np.split(self.points, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


def _clip(ring: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The part of a polygon inside a rectangle (Sutherland & Hodgman 1974).

    A polygon that falls into several parts keeps them joined along the border, where the filling rule sees nothing.
    """
    if (ring >= low).all() and (ring <= high).all():
        return ring
    for axis in (0, 1):
        ring = _clip_side(ring, axis, low[axis], 1.0)
        ring = _clip_side(ring, axis, high[axis], -1.0)
    return ring


def _clip_side(ring: np.ndarray, axis: int, border: float, sign: float) -> np.ndarray:
    """Keep sign · (coordinate - border) >= 0; where an edge crosses the border, a corner is put on it."""
    if not len(ring):
        return ring
    distance = sign * (ring[:, axis] - border)
    following, next_distance = np.roll(ring, -1, axis=0), np.roll(distance, -1)
    inside = distance >= 0
    crossing = inside != (next_distance >= 0)
    share = distance / np.where(crossing, distance - next_distance, 1.0)
    corners = ring + share[:, None] * (following - ring)
    corners[:, axis] = border
    both = np.stack((ring, corners), axis=1).reshape(-1, 2)
    return both[np.stack((inside, crossing), axis=1).reshape(-1)]
