"""Frames of a video file or of a folder, for prediction and pictures, and writing them as one file again.

Video files are read and written by PyAV, which brings its own FFmpeg (extra `video`); folders of frames need nothing.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.images import MAX_PIXELS, read_image
from mmcore.errors import DataError, MissingDataError, UsageError

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NEEDED = "pip install 'mmcore-trainer[video]'"


class Frames(NamedTuple):
    """Some frames of one video."""

    images: list[np.ndarray]
    """(height, width, 3) uint8 RGB each."""
    numbers: list[int]
    """Number of each frame within the video."""
    rate: float
    """Frames a second of these, not of the file."""
    left_out: int
    """Frames behind the last one that were not read."""


def is_video(path: Path) -> bool:
    """Whether a file is one by its ending."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def read_frames(path: Path, *, every: int = 1, most: int = 300, max_pixels: int = MAX_PIXELS) -> Frames:
    """The frames of a video file, or the pictures directly inside a folder in order of their names.

    Args:
        path: file or folder.
        every: take each n-th frame.
        most: at most so many, from the beginning.
        max_pixels: larger frames are refused.

    Raises:
        MissingDataError: there is nothing, or no picture in the folder.
        DataError: it cannot be read, or its frames differ in size.
        UsageError: a video file, and no PyAV.
    """
    if path.is_dir():
        return _of_folder(path, every, most, max_pixels)
    if not path.is_file():
        raise MissingDataError("there is no such video", where=path, do="give a video file or a folder of frames")
    return _of_file(path, every, most, max_pixels)


def _of_folder(path: Path, every: int, most: int, max_pixels: int) -> Frames:
    names = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)
    if not names:
        raise MissingDataError("the folder holds no frames", where=path, known=PICTURES)
    chosen = range(0, len(names), every)
    numbers = list(chosen)[:most]
    images = [read_image(names[number], max_pixels=max_pixels) for number in numbers]
    for number, image in zip(numbers, images, strict=True):
        if image.shape != images[0].shape:
            (height, width), (h, w) = images[0].shape[:2], image.shape[:2]
            raise DataError(
                f"a frame is {w}x{h}, the first one {width}x{height}",
                where=names[number],
                do="frames of one video have one size; without --video pictures are answered one by one",
            )
    return Frames(images, numbers, 8.0, len(chosen) - len(numbers))


def _of_file(path: Path, every: int, most: int, max_pixels: int) -> Frames:
    av = _av()
    images: list[np.ndarray] = []
    numbers: list[int] = []
    left_out = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError("holds no pictures", where=path)
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise DataError(f"frames of {stream.width}x{stream.height} are too large", where=path)
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 25)
            for number, frame in enumerate(container.decode(stream)):
                if number % every:
                    continue
                if len(images) == most:
                    total = stream.frames or number + 1
                    left_out = max(1, (total - number + every - 1) // every)
                    break
                images.append(upright(frame.to_ndarray(format="rgb24"), frame.rotation))
                numbers.append(number)
    except av.FFmpegError as error:
        raise DataError(
            f"video cannot be read: {error.strerror}", where=path, do="convert it, or give its frames"
        ) from None
    if not images:
        raise DataError("video has no frames", where=path)
    return Frames(images, numbers, rate / every, left_out)


def upright(image: np.ndarray, degrees: int) -> np.ndarray:
    """A frame as players show it: telephones store it lying and note by how much it is to be turned.

    Args:
        image: (height, width, 3).
        degrees: counterclockwise, as FFmpeg reads the display matrix; what is no quarter turn changes nothing.
    """
    return image if degrees % 90 else np.ascontiguousarray(np.rot90(image, degrees // 90))


def can_write() -> bool:
    """Whether video files can be written here."""
    try:
        _av()
    except UsageError:
        return False
    return True


def write_video(path: Path, images: Sequence[np.ndarray], rate: float) -> None:
    """Frames as an MP4 that browsers play (H.264, even sides).

    Args:
        path: to write.
        images: (height, width, 3) uint8 RGB each, of one size.
        rate: frames a second.

    Raises:
        UsageError: no PyAV.
    """
    av = _av()
    height, width = (side - side % 2 for side in images[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for packet in _packets(av, stream, images, height, width):
            container.mux(packet)


def _packets(av: Any, stream: Any, images: Sequence[np.ndarray], height: int, width: int) -> Iterator[Any]:
    for image in images:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        yield from stream.encode(frame)
    yield from stream.encode()


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UsageError(
            "video files need PyAV", where="mmcore predict", do=f"{NEEDED}, or give a folder of frames"
        ) from None
    return av
