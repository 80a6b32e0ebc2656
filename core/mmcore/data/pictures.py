"""Where a record's picture is: a file below a folder, or a value of the LMDB that stands in the folder's place."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmcore.contract.values import Box
from mmcore.data.images import MAX_PIXELS, Held, read_image, safe_join
from mmcore.data.lmdb_store import Store
from mmcore.errors import DataError

Rgb = UInt8[np.ndarray, "_ _ 3"]
ASPECT = 0.01
"""How far the aspect ratio of a picture may be off its record's; farther it is another picture, or turned."""


def picture_at(folder: Path, name: str) -> Path | Held:
    """What `mmcore.data.images.read_image` reads for a record that names its picture.

    Args:
        folder: of pictures; or an LMDB (a folder with `data.mdb`, or that file) whose keys are the names.
        name: as the record has it.

    Raises:
        UnsafeDataError: the name leaves the folder.
        MissingDataError: the LMDB has no such key.
        PluginError: it is an LMDB, and the package is not installed.
    """
    if not _is_store(folder):
        return safe_join(folder, name)
    return Held(Store(folder).get(name), f"{folder}, key {name}")


def read_placed(folder: Path, name: str, where: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture that a record names; whatever is wrong with it names the record.

    Args:
        folder: as `picture_at` takes it.
        name: as the record has it.
        where: file and record, for errors.
        max_pixels: larger pictures are refused before decoding.

    Raises:
        DataError: it is missing, damaged, too large or outside the folder.
    """
    try:
        return read_image(picture_at(folder, name), max_pixels=max_pixels)
    except DataError as error:
        inside = f"{where}: {error.where}" if error.where else where
        raise type(error)(error.what, where=inside, known=error.known, do=error.do) from None


def read_shaped(folder: Path, name: str, size: tuple[int, int], where: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture of a record that says its size; it may have been resized since, but not turned or replaced.

    Args:
        folder: as `picture_at` takes it.
        name: as the record has it.
        size: height and width that the record states, pixels.
        where: file and record, for errors.
        max_pixels: larger pictures are refused before decoding.

    Raises:
        DataError: as `read_placed`, or it has another shape than the record says.
    """
    rgb = read_placed(folder, name, where, max_pixels)
    height, width = size
    if abs(np.log(rgb.shape[1] / rgb.shape[0] * height / width)) > ASPECT:
        raise DataError(
            f"the picture is {rgb.shape[1]}x{rgb.shape[0]}, its record says {width}x{height}",
            where=f"{where}, {name}",
            do="fetch the picture again, or correct height and width; only a picture of the same shape will do",
        )
    return rgb


def cut_out(rgb: Rgb, size: tuple[int, int], box: Box) -> Rgb:
    """A part of a picture, whole pixels as Pillow rounds them; at least one.

    Args:
        rgb: the picture, which may have been resized since it was annotated.
        size: height and width that the box counts in, pixels.
        box: xyxy.
    """
    height, width = rgb.shape[:2]
    if (height, width) != size:
        across, down = width / size[1], height / size[0]
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    left, top, right, bottom = (round(side) for side in box)
    return np.asarray(Image.fromarray(rgb).crop((left, top, max(right, left + 1), max(bottom, top + 1))))


@lru_cache(64)
def _is_store(folder: Path) -> bool:
    return folder.is_file() or (folder / "data.mdb").is_file()
