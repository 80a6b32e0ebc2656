"""Where a record's picture is: a file below a folder, or inside what stands in the folder's place: tars, or an LMDB.

images = open_images(root, "SA1B_scaleup/images", "source 'sa1b'", cache)    # a Path, or Shards
read_image(picture_at(images, "sa_000000/sa_1.jpg"))
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmcore.contract.values import Box
from mmcore.data import stray
from mmcore.data.images import MAX_PIXELS, Held, locate, read_image, safe_join, unsafe_reason
from mmcore.data.lmdb_store import Store
from mmcore.data.patterns import is_pattern, locate_all
from mmcore.data.tar_names import is_tar, refuse_others, tars_in
from mmcore.data.tar_shards import Shards, open_shards
from mmcore.errors import DataError, MissingDataError, UnsafeDataError

Rgb = UInt8[np.ndarray, "_ _ 3"]
Pictures = Path | Shards
"""What holds the pictures of records: a folder, an LMDB by its path, or tars."""
ASPECT = 0.01
"""How far the aspect ratio of a picture may be off its record's; farther it is another picture, or turned."""


def open_images(root: Path, relative: str, what: str, cache: Path) -> Pictures:
    """What an entry of a recipe names as the place of its pictures.

    Args:
        root: data root, or the root of an own-data file.
        relative: path below it of a folder, an LMDB or a tar; or a pattern that means tars.
        what: names it in errors, such as "source 'coco'".
        cache: folder that holds indexes; the one of tars is made now if it is not there.

    Raises:
        UnsafeDataError: the path is absolute or climbs out of the root.
        MissingDataError: it is not there.
        DataError: a tar is compressed, damaged or cut short.
    """
    if is_pattern(relative) and not (root / relative).exists():
        base, paths = locate_all(root, relative, what)
        refuse_others(paths, what)
        return open_shards(base, paths, cache)
    path = locate(root, relative, what)
    if path.is_file() and is_tar(path):
        return open_shards(path.parent, [path], cache)
    tars = tars_in(path)
    return open_shards(path, tars, cache) if tars else path


def picture_at(images: Pictures, name: str) -> Path | Held:
    """What `mmcore.data.images.read_image` reads for a record that names its picture.

    Args:
        images: folder of pictures; an LMDB (a folder with `data.mdb`, or that file) whose keys are the names; or tars.
        name: as the record has it.

    Raises:
        UnsafeDataError: the name leaves the folder.
        MissingDataError: the LMDB has no such key, or no tar such a member.
        DataError: a tar cannot be read, or was replaced.
        PluginError: it is an LMDB, and the package is not installed.
    """
    place = place_at(images, name)
    return place if isinstance(place, Path) else place.held()


@dataclass(frozen=True, slots=True)
class Inside:
    """A picture inside tars or an LMDB, not read yet."""

    images: Shards | Store
    name: str
    place: Path
    """Where it would lie in a folder; by this it is known."""

    def held(self) -> Held:
        """With its bytes; raises as `picture_at`."""
        if isinstance(self.images, Shards):
            return self.images.held(self.name)
        return Held(self.images.get(self.name), f"{self.images.folder}, key {self.name}")


def place_at(images: Pictures, name: str) -> Path | Inside:
    """What `picture_at` would read, for whoever asks for its bytes later; raises as that."""
    if isinstance(images, Shards):
        reason = unsafe_reason(name)
        if reason and isinstance(name, str) and (found := stray.inside(images.base, name)):
            name, reason = found, None
        if reason:
            raise UnsafeDataError(f"path {name!r:.120} {reason}", where=images.base, do="name members of the tars")
        return Inside(images, name, images.base / name)
    return Inside(Store(images), name, images / name) if _is_store(images) else safe_join(images, name)


def is_there(images: Pictures, name: str) -> bool:
    """Whether there is a picture of this name; of an LMDB that is known once it is read."""
    if isinstance(images, Shards):
        return images.has(name)
    return _is_store(images) or (images / name).is_file()


def bytes_at(images: Pictures, name: str) -> tuple[bytes, str]:
    """A file beside the pictures, and what errors call it.

    Raises:
        MissingDataError: it is not there.
        DataError: it cannot be read; as `picture_at`.
    """
    place = place_at(images, name)
    if isinstance(place, Inside):
        return place.held()
    try:
        return place.read_bytes(), str(place)
    except FileNotFoundError:
        raise MissingDataError("there is no such file", where=place) from None
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}", where=place) from None


def read_placed(images: Pictures, name: str, where: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture that a record names; whatever is wrong with it names the record.

    Args:
        images: as `picture_at` takes it.
        name: as the record has it.
        where: file and record, for errors.
        max_pixels: larger pictures are refused before decoding.

    Raises:
        DataError: it is missing, damaged, too large or outside the folder.
    """
    try:
        return read_image(picture_at(images, name), max_pixels=max_pixels)
    except DataError as error:
        inside = f"{where}: {error.where}" if error.where else where
        raise type(error)(error.what, where=inside, known=error.known, do=error.do) from None


def read_shaped(images: Pictures, name: str, size: tuple[int, int], where: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """The picture of a record that says its size; it may have been resized since, but not turned or replaced.

    Args:
        images: as `picture_at` takes it.
        name: as the record has it.
        size: height and width that the record states, pixels.
        where: file and record, for errors.
        max_pixels: larger pictures are refused before decoding.

    Raises:
        DataError: as `read_placed`, or it has another shape than the record says.
    """
    rgb = read_placed(images, name, where, max_pixels)
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
    left, top, right, bottom = (round(side) for side in resized(box, size, (rgb.shape[0], rgb.shape[1])))
    return np.asarray(Image.fromarray(rgb).crop((left, top, max(right, left + 1), max(bottom, top + 1))))


def resized(box: Box, size: tuple[int, int], now: tuple[int, int]) -> Box:
    """A box of a picture of one height and width, xyxy, in pixels of the same picture at another."""
    across, down = now[1] / size[1], now[0] / size[0]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


@lru_cache(64)
def _is_store(folder: Path) -> bool:
    return folder.is_file() or (folder / "data.mdb").is_file()
