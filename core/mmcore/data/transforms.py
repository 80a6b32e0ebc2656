"""Image transforms as data: a list of steps that is drawn once and replayed on pixels, boxes, points and masks.

    Flip    left becomes right
    Resize  to a height and width, Pillow's bilinear filter for pixels, its nearest rule for bitmaps
    Crop    a rectangle; what lies outside is cut off, also from boxes and polygons
    Pad     to a height and width on the right and bottom

A family draws the steps from a seed and the image size; nothing here is random. The results equal detectron2's to the
pixel, so published recipes can be compared: polygons move as coordinates and are filled by pycocotools at the end,
bitmaps (RLE) are looked up once through the composed nearest-pixel maps of all steps.

Coordinates are pixels, x to the right and y down, (0, 0) the corner of the first pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from mmcore.errors import DataError
from mmcore.geometry import masks
from mmcore.geometry.masks import Rle
from mmcore.geometry.rings import Rings

Size = tuple[int, int]
"""Height and width, pixels."""


class Step(Protocol):
    """One geometric change. `size` is always the image's height and width before the step."""

    def resized(self, size: Size) -> Size: ...
    def pixels(self, image: Image.Image) -> Image.Image: ...
    def points(self, points: np.ndarray, size: Size) -> np.ndarray: ...
    def inverse(self, points: np.ndarray, size: Size) -> np.ndarray: ...
    def lookup(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror left and right."""

    def resized(self, size: Size) -> Size:
        return size

    def pixels(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def points(self, points: np.ndarray, size: Size) -> np.ndarray:
        return np.stack((size[1] - points[..., 0], points[..., 1]), axis=-1)

    def inverse(self, points: np.ndarray, size: Size) -> np.ndarray:
        return self.points(points, size)

    def lookup(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, columns[::-1]


@dataclass(frozen=True, slots=True)
class Resize:
    """Scale to this height and width, whatever the aspect ratio."""

    height: int
    width: int

    def resized(self, size: Size) -> Size:
        return self.height, self.width

    def pixels(self, image: Image.Image) -> Image.Image:
        return image.resize((self.width, self.height), Image.Resampling.BILINEAR)

    def points(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points * np.array([self.width / size[1], self.height / size[0]])

    def inverse(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points * np.array([size[1] / self.width, size[0] / self.height])

    def lookup(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[_nearest(len(rows), self.height)], columns[_nearest(len(columns), self.width)]


@dataclass(frozen=True, slots=True)
class Crop:
    """Keep the rectangle whose top left corner is (x0, y0); it may reach beyond the right and bottom of the image."""

    x0: int
    y0: int
    width: int
    height: int

    def resized(self, size: Size) -> Size:
        return min(self.height, size[0] - self.y0), min(self.width, size[1] - self.x0)

    def pixels(self, image: Image.Image) -> Image.Image:
        height, width = self.resized((image.height, image.width))
        return image.crop((self.x0, self.y0, self.x0 + width, self.y0 + height))

    def points(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points - np.array([self.x0, self.y0])

    def inverse(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points + np.array([self.x0, self.y0])

    def lookup(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[self.y0 : self.y0 + self.height], columns[self.x0 : self.x0 + self.width]


@dataclass(frozen=True, slots=True)
class Pad:
    """Enlarge to this height and width on the right and bottom; pixels get `value`, masks 0."""

    height: int
    width: int
    value: int = 0

    def resized(self, size: Size) -> Size:
        return max(self.height, size[0]), max(self.width, size[1])

    def pixels(self, image: Image.Image) -> Image.Image:
        height, width = self.resized((image.height, image.width))
        canvas = Image.new(image.mode, (width, height), (self.value,) * 3)
        canvas.paste(image, (0, 0))
        return canvas

    def points(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points

    def inverse(self, points: np.ndarray, size: Size) -> np.ndarray:
        return points

    def lookup(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.resized((len(rows), len(columns)))
        return (
            np.pad(rows, (0, height - len(rows)), constant_values=OUTSIDE),
            np.pad(columns, (0, width - len(columns)), constant_values=OUTSIDE),
        )


OUTSIDE = -1
"""In a lookup: this row or column shows nothing of the original image."""


@dataclass(frozen=True)
class Transform:
    """Steps in order of application, for images of one size."""

    size: Size
    """Of the image the steps start from."""
    steps: tuple[Step, ...] = ()

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """The image's size before the first step and after each."""
        sizes = [self.size]
        for step in self.steps:
            sizes.append(step.resized(sizes[-1]))
        return tuple(sizes)

    @property
    def output_size(self) -> Size:
        return self.sizes[-1]

    @property
    def flipped(self) -> bool:
        """Whether left and right are exchanged in the result."""
        return sum(isinstance(step, Flip) for step in self.steps) % 2 == 1

    def then(self, *steps: Step) -> "Transform":
        """The same with more steps behind."""
        return Transform(self.size, (*self.steps, *steps))

    def image(
        self, image: UInt8[np.ndarray, "height width 3"] | Image.Image
    ) -> UInt8[np.ndarray, "out_height out_width 3"]:
        """Pixels after all steps.

        Raises:
            DataError: the image is not of the size that the steps were drawn for.
        """
        return np.array(self._picture(image))

    def planes(
        self, image: UInt8[np.ndarray, "height width 3"] | Image.Image
    ) -> UInt8[np.ndarray, "3 out_height out_width"]:
        """Pixels after all steps, channels first: Pillow parts them several times faster than NumPy turns them.

        Raises:
            DataError: as `image`.
        """
        planes = np.empty((3, *self.output_size), np.uint8)
        for plane, band in zip(planes, self._picture(image).split(), strict=True):
            plane[...] = np.asarray(band)
        return planes

    def _picture(self, image: np.ndarray | Image.Image) -> Image.Image:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        size = (picture.height, picture.width)
        if size != self.size:
            raise DataError(f"image is {_by(size)}, its annotation says {_by(self.size)}")
        for step in self.steps:
            picture = step.pixels(picture)
        return picture

    def points(
        self, points: Float[np.ndarray, "*points 2"], whole: Bool[np.ndarray, "*points"] | None = None
    ) -> Float[np.ndarray, "*points 2"]:
        """Where (x, y) points of the original image end up; nothing is cut off.

        Args:
            points: (..., 2) pixels of the original image.
            whole: (...) points that every resize rounds towards zero. detectron2 computes in place on the array it
                was given, so coordinates that a JSON file writes as integers stay integers.
        """
        moved = np.asarray(points, np.float64)
        for step, size in zip(self.steps, self.sizes):
            moved = _moved(step, size, moved, whole)
        return moved

    def boxes(
        self, boxes_xyxy: Float[np.ndarray, "objects 4"], whole: Bool[np.ndarray, " objects"] | None = None
    ) -> Float[np.ndarray, "objects 4"]:
        """Boxes after all steps, clipped to the result.

        Args:
            boxes_xyxy: (objects, 4) pixels of the original image.
            whole: as in `points`, per box.
        """
        corners = np.asarray(boxes_xyxy, np.float64).reshape(-1, 2, 2)
        corners = self.points(corners, None if whole is None else np.broadcast_to(whole[:, None], corners.shape[:2]))
        height, width = self.output_size
        corners = np.sort(corners, axis=1).clip(0, (width, height))
        return corners.reshape(-1, 4)

    def masks(
        self, segmentations: Sequence[Sequence[Sequence[float]] | Mapping[str, Any]], *, where: str | None = None
    ) -> Bool[np.ndarray, "objects out_height out_width"]:
        """Filled masks after all steps.

        Args:
            segmentations: per object a list of polygons [x0, y0, x1, y1, ...], or an RLE of the original image.
            where: named in errors.

        Raises:
            DataError: a segmentation is malformed or an RLE has another size than the image.
        """
        encoded = [i for i, segmentation in enumerate(segmentations) if isinstance(segmentation, Mapping)]
        drawn = [i for i, segmentation in enumerate(segmentations) if not isinstance(segmentation, Mapping)]
        if not encoded and drawn:  # a plane of an image is large; nothing is copied that need not be
            return self._fill(segmentations, where)
        result = np.zeros((len(segmentations), *self.output_size), bool)
        if encoded:
            result[encoded] = self.bitmaps(masks.decode_all([segmentations[i] for i in encoded], where=where))  # type: ignore[misc]
        if drawn:
            result[drawn] = self._fill([segmentations[i] for i in drawn], where)  # type: ignore[misc]
        return result

    def bitmaps(self, bitmaps: np.ndarray) -> Bool[np.ndarray, "objects out_height out_width"]:
        """Masks of the original image after all steps, by nearest pixel.

        Args:
            bitmaps: (objects, height, width), nonzero inside.

        Raises:
            DataError: they have another size than the image.
        """
        if bitmaps.shape[1:] != self.size:
            raise DataError(f"mask is {_by(bitmaps.shape[1:])}, its image {_by(self.size)}")
        rows, columns = self._lookup
        found = (bitmaps != 0).take(rows, axis=1).take(columns, axis=2)
        if rows.min(initial=0) < 0 or columns.min(initial=0) < 0:
            found &= (rows != OUTSIDE)[:, None] & (columns != OUTSIDE)
        return found

    def inverse_points(self, points: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
        """Where points of the result lie in the original image."""
        moved = np.asarray(points, np.float64)
        for step, size in zip(reversed(self.steps), reversed(self.sizes[:-1])):
            moved = step.inverse(moved, size)
        return moved

    def inverse_boxes(self, boxes_xyxy: Float[np.ndarray, "objects 4"]) -> Float[np.ndarray, "objects 4"]:
        """Boxes of the result in pixels of the original image."""
        corners = self.inverse_points(np.asarray(boxes_xyxy, np.float64).reshape(-1, 2, 2))
        return np.sort(corners, axis=1).reshape(-1, 4)

    @cached_property
    def _lookup(self) -> tuple[Int[np.ndarray, " out_height"], Int[np.ndarray, " out_width"]]:
        """The original row and column that each row and column of the result shows."""
        rows, columns = (np.arange(side) for side in self.size)
        for step in self.steps:
            rows, columns = step.lookup(rows, columns)
        return rows, columns

    def visible(
        self,
        segmentations: Sequence[Sequence[Sequence[float]] | Mapping[str, Any]],
        chosen: Bool[np.ndarray, " objects"],
        *,
        where: str | None = None,
    ) -> tuple[Bool[np.ndarray, "visible out_height out_width"], Bool[np.ndarray, " objects"]]:
        """Filled masks of only those objects that are chosen and show a pixel; and which these are.

        All are read and checked; a plane that would be dropped is neither painted nor copied.

        Raises:
            DataError: as `masks`.
        """
        if any(isinstance(segmentation, Mapping) for segmentation in segmentations):
            found = self.masks(segmentations, where=where)
            shown = chosen & found.any(axis=(1, 2))
            return (found if shown.all() else found[shown]), shown
        rles = self._rles(segmentations, where)
        shown = chosen & (masks.areas(rles) > 0)
        return self._painted([rle for rle, seen in zip(rles, shown.tolist()) if seen], where), shown

    def _fill(self, objects: Sequence[Any], where: str | None) -> Bool[np.ndarray, "objects out_height out_width"]:
        return self._painted(self._rles(objects, where), where)

    def _painted(self, rles: Sequence[Rle], where: str | None) -> Bool[np.ndarray, "objects h w"]:
        if not rles:
            return np.zeros((0, *self.output_size), bool)
        return masks.decode_all(rles, where=where).view(bool)  # zeros and ones

    def _rles(self, objects: Sequence[Any], where: str | None) -> list[Rle]:
        """Polygons of several objects after all steps, moved together as one array of points."""
        rings = Rings.gather(objects, where)
        for step, size in zip(self.steps, self.sizes):
            if isinstance(step, Crop):
                rings = rings.clipped(step.x0, step.y0, step.width, step.height)
            rings = rings.moved(partial(_moved, step, size))
        return masks.rings_to_rles(
            rings.points, rings.lengths, rings.owners, len(objects), self.output_size, where=where
        )


def shortest_edge(size: Size, side: int, max_side: int) -> Resize:
    """Scale the shorter edge to `side` pixels, less where the longer edge would exceed `max_side`.

    Each edge is rounded half up, as detectron2's ResizeShortestEdge does.
    """
    height, width = size
    scale = side / min(height, width)
    new_height, new_width = (side, scale * width) if height < width else (scale * height, side)
    longest = max(new_height, new_width)
    if longest > max_side:
        new_height, new_width = new_height * (max_side / longest), new_width * (max_side / longest)
    return Resize(int(new_height + 0.5), int(new_width + 0.5))


def tight_boxes(bitmaps: Bool[np.ndarray, "objects height width"]) -> Float[np.ndarray, "objects 4"]:
    """The smallest xyxy box in pixels around each mask, right and bottom one past the last pixel; zeros if empty."""
    columns, rows = np.any(bitmaps, axis=1), np.any(bitmaps, axis=2)
    height, width = bitmaps.shape[1:]
    ends = [columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    return np.stack(ends, axis=1).astype(np.float64) * np.any(columns, axis=1)[:, None]


def _moved(step: Step, size: Size, points: np.ndarray, whole: np.ndarray | None) -> np.ndarray:
    moved = step.points(points, size)
    if whole is None or not isinstance(step, Resize):
        return moved
    return np.where(whole[..., None], np.trunc(moved), moved)


def _nearest(old: int, new: int) -> np.ndarray:
    """The old index that each new one shows, by Pillow's own rule: asked of Pillow, whose rounding it is."""
    line = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(line.resize((new, 1), Image.Resampling.NEAREST))[0]


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
