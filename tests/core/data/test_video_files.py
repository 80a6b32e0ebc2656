"""Frames of folders and of video files, and a video file that comes back as it was written."""

from pathlib import Path

import numpy as np
import pytest
from mmcore.data.video_files import is_video, read_frames, upright, write_video
from mmcore.errors import DataError, MissingDataError
from PIL import Image


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    frames = []
    for number in range(count):
        frame = np.full((height, width, 3), 60, np.uint8)
        frame[10:30, 4 * number : 4 * number + 16] = (220, 60, 40)
        frames.append(frame)
    return frames


def folder_of(path: Path, frames: list[np.ndarray]) -> Path:
    path.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{number:04d}.png")
    return path


def test_a_folder_is_read_in_order_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    frames = moving(9)
    found = read_frames(folder_of(tmp_path / "clip", frames), every=2, most=3)
    assert found.numbers == [0, 2, 4]
    assert found.left_out == 2
    assert all(np.array_equal(image, frames[number]) for image, number in zip(found.images, found.numbers, strict=True))


def test_frames_of_another_size_and_folders_without_frames_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "clip", [*moving(2), *moving(1, height=50)])
    with pytest.raises(DataError, match=r"a frame is 64x50, the first one 64x48(.|\n)*0002\.png"):
        read_frames(folder)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing.mp4"):
        with pytest.raises(MissingDataError):
            read_frames(path)


def test_a_video_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = moving(10, height=47)  # an odd side is cut by one
    write_video(tmp_path / "clip.mp4", frames, 12.5)
    assert is_video(tmp_path / "clip.mp4")
    found = read_frames(tmp_path / "clip.mp4")
    assert (len(found.images), found.images[0].shape, found.left_out) == (10, (46, 64, 3), 0)
    assert found.rate == pytest.approx(12.5)
    for image, frame in zip(found.images, frames, strict=True):
        assert np.abs(image.astype(int) - frame[:46]).mean() < 6
    some = read_frames(tmp_path / "clip.mp4", every=3, most=2)
    assert some.numbers == [0, 3]
    assert some.left_out == 2
    assert some.rate == pytest.approx(12.5 / 3)


def test_frames_of_a_telephone_are_turned_upright() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 2] = 9  # top right; a quarter turn to the left brings it to the top left
    assert upright(image, 90).shape == upright(image, -90).shape == (3, 2, 3)
    assert upright(image, 90)[0, 0, 0] == upright(image, -90)[2, 1, 0] == upright(image, 180)[1, 0, 0] == 9
    assert np.array_equal(upright(image, 0), image)


def test_a_file_that_is_no_video_is_told(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "clip.mp4").write_bytes(b"not a video at all" * 50)
    with pytest.raises(DataError, match="video cannot be read"):
        read_frames(tmp_path / "clip.mp4")
