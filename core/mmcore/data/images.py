"""Open an image file that somebody else wrote: inside its root, under a pixel budget, upright, as RGB bytes.

Only the header is read before the budget is checked, so a decompression bomb costs nothing. The budget is one of pixels
and, as some layouts take three times the memory of others, one of bytes. A damaged or truncated file is an error, never
a half grey picture; neither is one whose header claims more rows than its data has. Pipes and devices are not opened.
"""

import contextlib
import errno
import io
import os
import stat
import struct
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mmcore.data import stray
from mmcore.data.jpeg import lacks_data, plain_corner
from mmcore.errors import DataError, MissingDataError, PluginError, UnsafeDataError

MAX_PIXELS = 178_956_970
"""Default budget, Pillow's own (a 24 bit image of 512 MiB); recipes set `data.max_pixels`."""

BYTES_PER_PIXEL = 6
"""Bytes of memory that reading an image may take, per pixel of the budget; 1 GiB with the default."""
_LEAST_BYTES = 64 * 2**20

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""File formats that are opened at all; Pillow knows dozens more, with decoders that few people test."""

_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, EOFError, KeyError, IndexError, TypeError, ZeroDivisionError)
"""What Pillow's decoders raise on damaged files besides their own errors."""


class ImageFacts(NamedTuple):
    """What the header says."""

    height: int
    """Pixels, after EXIF rotation."""
    width: int
    mode: str
    """Pillow's name of the pixel layout, such as RGB, L, P, CMYK or I;16."""


class Held(NamedTuple):
    """An image file that is in memory already, such as a value of an LMDB."""

    content: bytes
    label: str
    """What errors call it."""

    def __str__(self) -> str:
        return self.label


def read_image(
    path: str | os.PathLike[str] | Held, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """An image as (height, width, 3) uint8 RGB, rotated as its EXIF entry says.

    Palette, grey and CMYK images are converted; transparency is dropped, as Pillow's conversion to RGB does; 16 bit
    grey is scaled to 8. Which frame of an animation was annotated nobody knows, so it is refused; of a camera's
    multi-picture JPEG the first picture is the photograph.

    Raises:
        MissingDataError: there is no such file.
        UnsafeDataError: it has more than `max_pixels` pixels; nothing was decoded.
        DataError: it is damaged, truncated, animated, or no image; names the file.
    """
    return np.array(read_picture(path, max_pixels=max_pixels))


def read_picture(path: str | os.PathLike[str] | Held, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What `read_image` reads, in Pillow's own memory: for whoever resizes it by Pillow, two copies less.

    Raises:
        DataError: as `read_image`.
    """
    with _opened(path, max_pixels) as image:
        _refuse_filled(image, path)
        ImageOps.exif_transpose(image, in_place=True)  # decodes it, too
        return _to_rgb(image)


def read_map(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A map of whole numbers as (height, width): the indices of a palette image, the values of a grey one.

    Raises:
        DataError: as `read_image`, or the image has colours.
    """
    with _opened(path, max_pixels) as image:
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise DataError(
                f"a label map has one number a pixel, not {image.mode}",
                where=path,
                do="check that it is the label file",
            )
        return np.array(image)


def read_facts(path: str | os.PathLike[str] | Held, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Size and layout of an image from its header; no pixel is decoded.

    Raises:
        DataError: as `read_image`.
    """
    with _opened(path, max_pixels) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = reversed(image.size) if turned else image.size
        return ImageFacts(height, width, image.mode)


def safe_join(root: str | os.PathLike[str], relative: str) -> Path:
    """`root / relative`, only if that is a place inside `root`.

    The check is on path components, so `/data/safe_evil` is not inside `/data/safe`. The file need not exist. `root`
    itself may be or contain links. For names that come out of annotation files, so an absolute path inside `root` and
    Label Studio's way to its store are taken (`mmcore.data.stray`); what a recipe names, see `locate`.

    Raises:
        UnsafeDataError: the path is absolute and elsewhere, climbs out, names a drive or URL, contains NUL or follows a
            link out.
        PluginError: the root is no folder but tars, which `mmcore.data.pictures.picture_at` reads.
    """
    if not isinstance(root, str | os.PathLike):
        raise PluginError(
            f"the plugin reads pictures of folders alone, and these are in {root}",
            do="unpack them, or have it read `mmcore.data.pictures.picture_at(images, name)`",
        )
    reason = unsafe_reason(relative)
    if reason and isinstance(relative, str) and (found := stray.inside(root, relative)):
        relative, reason = found, None
    if reason:
        raise _outside(root, relative, reason)
    joined = os.path.join(root, relative)
    base, target = os.path.realpath(root), os.path.realpath(joined)
    if target != base and not target.startswith(base.rstrip(os.sep) + os.sep):
        raise UnsafeDataError(
            f"path {relative!r} follows a link to {target}",
            where=f"folder {root}",
            do="copy the file into this folder, or name a folder that contains both",
        )
    return Path(joined)


def _outside(root: str | os.PathLike[str], name: str, reason: str) -> UnsafeDataError:
    """The error of a name that points out of its folder, with what helps."""
    places = stray.uploaded(name) if isinstance(name, str) else ()
    if places:
        reason, do = (
            f"is not there as {', '.join(places[:-1])} or {places[-1]}",
            "copy the pictures of the export there",
        )
    elif isinstance(name, str) and stray.is_absolute(name):
        reason, do = "lies elsewhere", "give the folder that holds it, or name files from this folder"
    else:
        do = "name files below this folder"
    return UnsafeDataError(f"path {name!r:.120} {reason}", where=f"folder {root}", do=do)


def locate(root: Path, relative: str, what: str, *, also: str | None = None) -> Path:
    """A file or folder that a recipe names below the data root; the one way from a recipe's path to the disk.

    The root may also be the folder of a single data set: `coco/train2017` is then looked for as `train2017`. Folders
    on the way may be links, as data sets often lie elsewhere.

    Args:
        root: data root, or the root of an own-data file.
        relative: path below it, as the recipe has it; "" is the root itself.
        what: names it in errors, such as "source 'coco'".
        also: another ending that serves.

    Raises:
        UnsafeDataError: the path is absolute or climbs out of the root.
        MissingDataError: it is in neither place.
    """
    if not relative:
        return Path(root)
    reason = unsafe_reason(relative)
    if reason:
        raise UnsafeDataError(
            f"{what} needs {relative!r}, which {reason}",
            where=f"data root {root}",
            do="name files and folders below the data root; folders elsewhere are described by an own-data file, --own",
        )
    path = Path(root) / relative
    first, _, rest = relative.partition("/")
    if path.exists() or (also and path.with_suffix(also).exists()):
        return path
    if rest and not (Path(root) / first).exists() and (Path(root) / rest).exists():
        return Path(root) / rest
    absent = next(parent for parent in (*reversed(path.parents), path) if not parent.exists())
    raise MissingDataError(
        f"{what} needs {relative}, which is not there",
        where=f"data root {root}" + ("" if absent == path else f"; {absent} does not exist"),
        do="check --data or $MMCORE_DATA, pick other sources with --sources, or change annotations and images of the "
        "source in a --config file or with --set (--set validation.NAME=null leaves a validation set out); "
        "--demo brings sample data",
    )


def unsafe_reason(relative: str) -> str | None:
    """Why a path from a file cannot be used, as the end of a sentence; None for a plain relative path."""
    if not isinstance(relative, str) or not relative:
        return "is empty or not text"
    if "\0" in relative:
        return "contains NUL"
    if "://" in relative or relative.lower().startswith(("file:", "data:", "http:", "https:")):
        return "is a URL, which is never fetched"
    if relative.startswith(("/", "\\")) or relative[1:2] == ":":
        return "is not relative"
    if ".." in relative.replace("\\", "/").split("/"):
        return "climbs out of its folder"
    try:
        os.fsencode(relative)
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, so no file is called so"
    return None


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str] | Held, max_pixels: int) -> Generator[Image.Image]:
    """The image with its header checked; whatever goes wrong inside becomes a DataError that names the file."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # the recipe trusts larger files than Pillow does
    try:
        with warnings.catch_warnings():
            # About bombs (the budget is checked here) and odd metadata of files that decode well.
            warnings.simplefilter("ignore")
            # Opened here, because Pillow leaves some damaged files open.
            with _regular(path) as file, Image.open(file, formats=FORMATS) as image:
                _check(image, path, max_pixels)
                yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise MissingDataError("image is missing", where=path, do="check the data root and the file name") from None
    except Image.DecompressionBombError as error:
        raise _bomb(path, max_pixels, error) from None
    except UnidentifiedImageError:
        raise DataError("not an image, or its header is damaged", where=path, known=FORMATS) from None
    except _DAMAGE as error:
        raise DataError(
            f"image cannot be decoded: {error}", where=path, do="fetch the file again or remove it"
        ) from error


def _regular(path: str | os.PathLike[str] | Held) -> IO[bytes]:
    if isinstance(path, Held):
        return io.BytesIO(path.content)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(handle, "rb")


def _refuse_filled(image: Image.Image, path: str | os.PathLike[str] | Held) -> None:
    """A JPEG that ends before its last row or column.

    Raises:
        DataError: the header claims more than there is.
    """
    if image.format not in ("JPEG", "MPO") or not plain_corner(image):
        return
    with _regular(path) as file:
        if lacks_data(image, file.read()):
            raise DataError("the image has less data than its size asks for", where=path, do="fetch the file again")


def _bytes_needed(image: Image.Image) -> int:
    """Memory that reading takes: Pillow's copy, one as RGB, one as bytes and the array."""
    narrow = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "LA": 4, "PA": 4}
    own = narrow.get(image.mode, 4) + (4 if image.format in ("GIF", "WEBP") else 0)
    return image.width * image.height * (own + (0 if image.mode == "RGB" else 4) + 6)


def _check(image: Image.Image, path: str | os.PathLike[str] | Held, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _bomb(path, max_pixels, f"{width}x{height} are {width * height}")
    needed, budget = _bytes_needed(image), max(BYTES_PER_PIXEL * max_pixels, _LEAST_BYTES)
    if needed > budget:
        raise UnsafeDataError(
            f"reading {width}x{height} pixels in mode {image.mode} takes {needed:,} bytes; the budget is {budget:,}",
            where=path,
            do="--set data.max_pixels=... (six bytes each) if the file is trusted",
        )
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError("image is an animation", where=path, do="extract the frame that was annotated")


def _bomb(path: str | os.PathLike[str] | Held, max_pixels: int, detail: object) -> UnsafeDataError:
    return UnsafeDataError(
        f"image has too many pixels ({detail}; the budget is {max_pixels})",
        where=path,
        do="--set data.max_pixels=... if the file is trusted",
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow would clip at 255 instead of scaling.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating point pixels have no agreed range")
    return image.convert("RGB")
