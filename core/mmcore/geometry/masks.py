"""Masks: polygons, run lengths and bitmaps, converted after everything was checked in Python.

    bitmap   (height, width) uint8, 0 or 1
    RLE      {"size": [height, width], "counts": str}, COCO's compressed run lengths, column by column
    polygon  [x0, y0, x1, y1, ...] pixels; an object is a list of polygons, whose union is the mask

pycocotools decodes in C and trusts its input: a string that ends inside a number is read past its end, and sizes
are multiplied in 32 bits. So counts from files are read and checked here, in NumPy, and decoded here as well (runs to
pixels is one `repeat`); pycocotools draws polygons, merges and encodes. What it is given is rebuilt from the very bytes
and numbers that were checked, never the object they were read from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask

from mmcore.errors import DataError, UnsafeDataError

coco_mask: Any = mask  # its stubs know fewer forms of masks than its functions take

Rle = dict[str, Any]
"""{"size": [height, width], "counts": str}."""

_MAX_COORDINATE = 2**26
"""Pixels from the origin at which a polygon's corner is no longer one: times five, it still fits into 32 bits."""

MAX_MASK_PIXELS = 178_956_970
"""Largest mask that is decoded; the same limit as for images (`mmcore.contract.recipe.Data.max_pixels`)."""


def encode(bitmap: np.ndarray) -> Rle:
    """A (height, width) mask, nonzero inside, as compressed RLE."""
    return _as_text(coco_mask.encode(np.asfortranarray(bitmap != 0).view(np.uint8)))


def encode_all(bitmaps: np.ndarray) -> list[Rle]:
    """(objects, height, width) masks, nonzero inside, as one RLE each."""
    if not len(bitmaps):
        return []
    stacked = np.asfortranarray(np.moveaxis(bitmaps != 0, 0, -1)).view(np.uint8)
    return [_as_text(rle) for rle in coco_mask.encode(stacked)]


def decode(rle: Mapping[str, Any], *, where: str | None = None) -> np.ndarray:
    """A compressed or uncompressed RLE as a (height, width) uint8 bitmap of 0 and 1.

    Raises:
        DataError: the counts do not fill the size; names `where`.
        UnsafeDataError: the counts are malformed or the size is too large.
    """
    height, width, runs = _checked_runs(rle, where)
    return _fill(runs, height, width)


def decode_all(rles: Sequence[Mapping[str, Any]], *, where: str | None = None) -> np.ndarray:
    """RLEs of one size as (objects, height, width) uint8 bitmaps; (0, 0, 0) for none.

    Raises:
        DataError: the counts do not fill the size, or sizes differ.
        UnsafeDataError: the counts are malformed or the size is too large.
    """
    if not rles:
        return np.zeros((0, 0, 0), np.uint8)
    height, width = check_size(rles[0].get("size"), where=where)
    bitmaps = np.zeros((len(rles), height, width), np.uint8)
    for rle in rles:
        if list(rle.get("size", ())) != [height, width]:
            raise DataError(f"masks of one image differ in size: {rles[0]['size']}, {rle.get('size')}", where=where)
    for bitmap, runs in zip(bitmaps, _runs_of_all(rles, where)):
        _paint(bitmap, runs)
    return bitmaps


def _paint(bitmap: np.ndarray, runs: np.ndarray) -> None:
    """Put the inside of an RLE into a bitmap of zeros, writing only the rows and columns that it lies in.

    A bitmap of zeros takes no memory until it is written, and most objects are small: touching all of it costs more
    than filling the object.
    """
    height = bitmap.shape[0]
    runs = runs[: len(runs) // 2 * 2]  # what follows the last run inside is outside
    if not len(runs):
        return
    ends = runs.cumsum()
    end = int(ends[-1])
    first, last = int(runs[0]) // height, -(-end // height)
    lengths = np.append(runs, last * height - end)
    lengths[0] -= first * height
    colours = (np.arange(len(lengths)) & 1).astype(np.uint8)
    columns = np.repeat(colours, lengths).reshape(last - first, height)
    top, bottom = _rows(ends, height)
    bitmap[top:bottom, first:last] = columns[:, top:bottom].T


def _rows(ends: np.ndarray, height: int) -> tuple[int, int]:
    """The first row inside and the one behind the last, of runs down the columns that end at these pixels."""
    starts, stops = ends[::2], ends[1::2]
    if (starts // height != np.maximum(stops - 1, starts) // height).any():  # one goes on in the next column
        return 0, height
    return int((starts % height).min()), int(((stops - 1) % height).max()) + 1


def compress(rle: Mapping[str, Any], *, where: str | None = None) -> Rle:
    """A checked RLE with compressed counts, from compressed (str or bytes) or uncompressed (list) counts.

    Raises:
        DataError: the counts do not fill the size.
        UnsafeDataError: the counts are malformed or the size is too large.
    """
    height, width, runs = _checked_runs(rle, where)
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": _ascii(counts, where).decode("ascii")}
    return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def check_rle(rle: Mapping[str, Any], *, where: str | None = None) -> tuple[int, int]:
    """Prove that an RLE is safe to decode and describes exactly height x width pixels.

    Returns:
        Height and width, pixels.

    Raises:
        DataError: a run is negative, or the runs do not add up to the size.
        UnsafeDataError: no size, a size over the budget, or counts that are not a terminated sequence of numbers.
    """
    height, width, _ = _checked_runs(rle, where)
    return height, width


def check_size(size: Any, *, where: str | None = None) -> tuple[int, int]:
    """Height and width of a mask, from a pair of positive whole numbers under the pixel budget.

    Raises:
        UnsafeDataError: it is something else.
    """
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise UnsafeDataError(f"mask size {size!r} is not [height, width]", where=where)
    height, width = size
    if height * width > MAX_MASK_PIXELS:
        raise UnsafeDataError(f"a mask of {height}x{width} is over the budget of {MAX_MASK_PIXELS} pixels", where=where)
    return height, width


def valid_polygons(polygons: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Those polygons that have at least three points and as many x as y (detectron2's rule for COCO files)."""
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]


def polygons_to_bitmap(
    polygons: Sequence[Sequence[float]], height: int, width: int, *, where: str | None = None
) -> np.ndarray:
    """The union of polygons as a (height, width) uint8 bitmap; parts outside the image are cut off.

    Raises:
        DataError: a polygon has less than three points, an odd count, or a coordinate that is no usable number.
    """
    return decode(polygons_to_rle(polygons, height, width, where=where), where=where)


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int, *, where: str | None = None) -> Rle:
    """The union of polygons as compressed RLE.

    Raises:
        DataError: as `polygons_to_bitmap`.
    """
    check_size((height, width), where=where)
    checked = _checked(polygons, height, width, where)
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(checked, height, width)))


def rings_to_rles(
    points: Float[np.ndarray, "points 2"],
    lengths: Int[np.ndarray, " rings"],
    owners: Int[np.ndarray, " rings"],
    num_objects: int,
    size: tuple[int, int],
    *,
    where: str | None = None,
) -> list[Rle]:
    """As `polygons_to_rle` of several objects, whose polygons lie end to end and are checked together.

    Args:
        points: corners of all polygons, pixels.
        lengths: corners of each, at least 3.
        owners: object that each belongs to; one without any gets an empty mask.
        num_objects: how many there are.
        size: height and width of the image, pixels.
        where: named in errors.

    Raises:
        DataError: a coordinate is no usable number.
        UnsafeDataError: a polygon is too large to be drawn.
    """
    height, width = check_size(size, where=where)
    _check_extent(points, lengths, owners, height, width, where)
    flat, ends = points.reshape(-1).tolist(), (2 * lengths.cumsum()).tolist()
    polygons: list[list[list[float]]] = [[] for _ in range(num_objects)]
    for begin, end, owner in zip([0, *ends], ends, owners.tolist()):
        polygons[owner].append(flat[begin:end])
    nothing = _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width))
    return [
        _as_text(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))) if rings else nothing
        for rings in polygons
    ]


def to_bitmap(segmentation: Any, height: int, width: int, *, where: str | None = None) -> np.ndarray:
    """Polygons, RLE or bitmap of an image of this size, as a (height, width) uint8 bitmap.

    Raises:
        DataError: the segmentation has another size or is malformed; names `where`.
    """
    if isinstance(segmentation, Mapping):
        bitmap = decode(segmentation, where=where)
    elif isinstance(segmentation, np.ndarray):
        bitmap = (segmentation != 0).view(np.uint8)
    elif isinstance(segmentation, list | tuple) and segmentation:
        return polygons_to_bitmap(segmentation, height, width, where=where)
    else:
        raise DataError("segmentation is neither polygons nor RLE", where=where)
    if bitmap.shape != (height, width):
        raise DataError(f"mask is {bitmap.shape[0]}x{bitmap.shape[1]}, its image {height}x{width}", where=where)
    return bitmap


def tight_box(bitmap: np.ndarray) -> tuple[int, int, int, int] | None:
    """The smallest xyxy box in pixels around a (height, width) mask; right and bottom are one past the last pixel.

    Returns:
        None for an empty mask.
    """
    columns, rows = np.flatnonzero(bitmap.any(axis=0)), np.flatnonzero(bitmap.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def area(rle: Mapping[str, Any], *, where: str | None = None) -> int:
    """Pixels inside an RLE.

    Raises:
        DataError: as `compress`.
    """
    return int(_checked_runs(rle, where)[2][1::2].sum())


def areas(rles: Sequence[Rle]) -> Int[np.ndarray, " objects"]:
    """Pixels inside each of several RLEs that come from here, not from a file."""
    return np.asarray(coco_mask.area(list(rles)), np.int64).reshape(len(rles))


def _as_text(rle: Mapping[str, Any]) -> Rle:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def _checked_runs(rle: Mapping[str, Any], where: str | None) -> tuple[int, int, np.ndarray]:
    """Height, width and (runs,) int64 lengths that fill exactly this size."""
    height, width = check_size(rle.get("size"), where=where)
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs = _runs([_ascii(counts, where)], where)[0]
    elif isinstance(counts, list) and all(type(run) is int and abs(run) <= MAX_MASK_PIXELS for run in counts):
        runs = np.asarray(counts, np.int64)
    else:
        raise UnsafeDataError("RLE counts are neither text nor a list of whole numbers", where=where)
    return height, width, _filling(runs, height, width, where)


def _runs_of_all(rles: Sequence[Mapping[str, Any]], where: str | None) -> list[np.ndarray]:
    """The runs of RLEs of one checked size; read together where all are text."""
    counts = [rle.get("counts") for rle in rles]
    if not all(isinstance(one, str | bytes) for one in counts):
        return [_checked_runs(rle, where)[2] for rle in rles]
    height, width = rles[0]["size"]
    runs = _runs([_ascii(one, where) for one in counts], where)  # type: ignore[arg-type]
    return [_filling(one, height, width, where) for one in runs]


def _filling(runs: np.ndarray, height: int, width: int, where: str | None) -> np.ndarray:
    """The same runs, if they fill exactly this size."""
    if len(runs) and runs.min() < 0:
        raise DataError("RLE has a run of negative length", where=where)
    covered = int(runs.sum())
    if covered != height * width:
        raise DataError(f"RLE covers {covered} pixels, its size {height}x{width} has {height * width}", where=where)
    return runs


def _ascii(counts: str | bytes, where: str | None) -> bytes:
    """Compressed counts as the bytes that are checked and, unchanged, used."""
    try:
        return counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError as error:
        raise UnsafeDataError(
            f"RLE counts contain a character outside '0' to 'o': {error.object[error.start]!a}", where=where
        ) from None


def _fill(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    colours = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.repeat(colours, runs).reshape(width, height).T


def _runs(texts: Sequence[bytes], where: str | None) -> list[np.ndarray]:
    """Decode COCO's counts: five bits a character plus a continuation bit, from the fourth run on as differences.

    Returns:
        Per text (runs,) int64 lengths, background first.
    """
    characters = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    if not len(characters):
        return [characters for _ in texts]
    if characters.min() < 0 or characters.max() > 63:
        raise UnsafeDataError("RLE counts contain a character outside '0' to 'o'", where=where)
    last = np.array([len(text) for text in texts]).cumsum()
    ends = np.flatnonzero(characters & 0x20 == 0)
    borders = np.searchsorted(ends, last)  # runs in the texts up to and with each
    if not np.array_equal(np.append(-1, ends)[borders], last - 1):
        raise UnsafeDataError("RLE counts end inside a number", where=where)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 6:
        raise UnsafeDataError("RLE counts contain a number of more than 30 bits", where=where)
    shifts = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    values = np.add.reduceat((characters & 0x1F) << shifts, starts)
    values -= np.where(characters[ends] & 0x10, np.int64(1) << 5 * lengths, 0)
    found = np.split(values, borders[:-1])
    for runs in found:
        # Run i is stored as its difference to run i - 2, for i > 2: two interleaved running sums.
        runs[1::2] = runs[1::2].cumsum()
        runs[2::2] = runs[2::2].cumsum()
    return found


def _check_extent(
    points: np.ndarray, lengths: np.ndarray, owners: np.ndarray, height: int, width: int, where: str | None
) -> None:
    """Polygons of several objects, end to end, that can be drawn in this image.

    Raises:
        DataError: a coordinate is not finite.
        UnsafeDataError: one lies too far outside, or the outline of an object is too long.
    """
    if not len(points):
        return
    if not np.isfinite(points).all():
        raise DataError("polygon has a coordinate that is not a finite number", where=where)
    farthest = float(np.abs(points).max())
    if farthest > _MAX_COORDINATE:
        raise UnsafeDataError(f"polygon leaves its {height}x{width} image by {farthest:.3g} pixels", where=where)
    ends = lengths.cumsum()
    previous = np.arange(-1, len(points) - 1)
    previous[ends - lengths] = ends - 1
    steps = np.abs(points - points[previous]).max(axis=1)
    perimeter = float(np.bincount(np.repeat(owners, lengths), steps).max())
    # The rasteriser walks along every edge in steps of a fifth of a pixel and remembers them all.
    if 5 * perimeter > MAX_MASK_PIXELS:
        raise UnsafeDataError(f"polygon leaves its {height}x{width} image by {perimeter:.3g} pixels", where=where)


def _checked(polygons: Sequence[Sequence[float]], height: int, width: int, where: str | None) -> list[list[float]]:
    if not polygons:
        raise DataError("object has no polygon", where=where)
    rings = []
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise DataError(f"polygon has {len(polygon)} numbers; it takes an even count of at least 6", where=where)
        rings.append(_points(polygon, where))
    lengths = np.array([len(ring) for ring in rings])
    _check_extent(np.concatenate(rings), lengths, np.zeros_like(lengths), height, width, where)
    return [ring.reshape(-1).tolist() for ring in rings]


def _points(polygon: Sequence[float], where: str | None) -> np.ndarray:
    """(points, 2) float64 corners, x and y."""
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise DataError("polygon has a coordinate that is no number", where=where) from None
    if not np.isfinite(points).all():
        raise DataError("polygon has a coordinate that is not a finite number", where=where)
    return points
