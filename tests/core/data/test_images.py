"""Images are opened under a budget, upright and as RGB; what is broken is refused with the file's name."""

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.data.images import BYTES_PER_PIXEL, MAX_PIXELS, locate, read_facts, read_image, safe_join
from mmcore.errors import DataError, MissingDataError, UnsafeDataError
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(path: Path, width: int, height: int) -> Path:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_an_ordinary_image_is_read_as_it_was_written(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PIXELS)
    assert read_facts(tmp_path / "a.png")[:2] == (12, 20)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1", "CMYK", "YCbCr"])
def test_every_common_layout_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert read_image(path).shape == (12, 20, 3)


def test_a_transparent_palette_is_read_without_a_warning(tmp_path):
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "a.png", transparency=bytes(range(200)))
    assert read_image(tmp_path / "a.png").shape == (12, 20, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 127, 255]


def test_exif_rotation_is_applied_to_pixels_and_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(PIXELS, -1))
    assert read_facts(tmp_path / "a.png")[:2] == (20, 12)


def test_a_single_row_of_pixels_is_an_image(tmp_path):
    Image.fromarray(PIXELS[:1]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (1, 20, 3)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    for width, height in ((50_000, 50_000), (14_000, 13_500)):
        with pytest.raises(UnsafeDataError, match="too many pixels"):
            read_image(png_that_claims(tmp_path / "bomb.png", width, height))


def test_the_budget_can_be_lower_than_pillows(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(UnsafeDataError, match="budget is 239") as error:
        read_image(tmp_path / "a.png", max_pixels=239)
    assert "data.max_pixels" in str(error.value)
    assert read_image(tmp_path / "a.png", max_pixels=240).size == 720


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(PIXELS).convert("P"), Image.fromarray(255 - PIXELS).convert("P")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animation"):
        read_image(tmp_path / "a.gif")
    frames[0].save(tmp_path / "still.gif")
    assert read_image(tmp_path / "still.gif").shape == (12, 20, 3)


def test_of_a_multi_picture_photograph_the_first_is_read(tmp_path):
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[image])
    assert read_image(tmp_path / "a.jpg").shape == (12, 20, 3)


@pytest.mark.parametrize("length", [0, 2, 30, 300, 600])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, length):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    assert len(content) > 600
    (tmp_path / "cut.jpg").write_bytes(content[:length])
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "cut.jpg")
    assert "cut.jpg" in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_give_an_image_or_a_data_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    kind = data.draw(st.sampled_from(["jpg", "png", "gif", "webp", "bmp", "tiff"]))
    Image.fromarray(PIXELS).save(folder / f"a.{kind}")
    content = bytearray((folder / f"a.{kind}").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / f"a.{kind}").write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_image(folder / f"a.{kind}").dtype == np.uint8


def test_text_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.jpg").write_text("not an image")
    with pytest.raises(DataError, match="not an image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(MissingDataError, match="missing"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(DataError):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.jpg",
        "a/../../outside.jpg",
        "a\\..\\..\\outside.jpg",
        "/etc/passwd",
        "\\\\server\\share\\a.jpg",
        "C:\\a.jpg",
        "a\0.jpg",
        "file:///etc/passwd",
        "https://example.com/a.jpg",
        "",
        "..",
        "../data_evil/a.jpg",
    ],
)
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data_evil").mkdir()
    with pytest.raises(UnsafeDataError):
        safe_join(tmp_path / "data", path)


def test_links_are_followed_only_inside_the_root(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "data_evil"
    root.mkdir()
    outside.mkdir()
    (root / "inside").mkdir()
    (root / "good").symlink_to(root / "inside")
    (root / "bad").symlink_to(outside)
    assert safe_join(root, "good/a.jpg") == root / "good/a.jpg"
    with pytest.raises(UnsafeDataError, match="follows a link"):
        safe_join(root, "bad/a.jpg")
    assert locate(root, "bad", "a folder") == root / "bad"
    (tmp_path / "link").symlink_to(root)
    assert safe_join(tmp_path / "link", "inside/a.jpg").name == "a.jpg"


def test_unusual_names_are_fine(tmp_path):
    for name in ("ä/ö.jpg", "a b.jpg", "..a.jpg", "~a.jpg", "x" * 255):
        assert safe_join(tmp_path, name) == tmp_path / name


def test_what_a_recipe_names_and_is_not_there_is_reported_with_the_first_absent_folder(tmp_path):
    with pytest.raises(MissingDataError, match="annotations of coco") as error:
        locate(tmp_path, "coco/annotations/a.json", "annotations of coco")
    assert f"{tmp_path / 'coco'} does not exist" in str(error.value)
    assert "--data" in str(error.value)
    assert locate(tmp_path, "", "data root") == tmp_path


def with_size(path: Path, target: Path, height: int, width: int) -> Path:
    """A JPEG whose header claims another size than its data has."""
    content = bytearray(path.read_bytes())
    at = next(at for frame in (b"\xff\xc0", b"\xff\xc2") if (at := content.find(frame)) > 0) + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    target.write_bytes(content)
    return target


LAYOUTS = {
    "baseline": {}, "progressive": {"progressive": True}, "full colour": {"subsampling": 0},
    "progressive, full colour": {"progressive": True, "subsampling": 0},
    "optimised": {"quality": 30, "optimize": True}, "restarts": {"restart_marker_rows": 1},
    "progressive with restarts": {"restart_marker_rows": 1, "progressive": True},
}  # fmt: skip


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [(480, 320), (176, 320), (168, 320), (160, 640), (160, 336), (1000, 1000)])
@pytest.mark.parametrize("kind", ["noise", "plain edge", "ramp", "grey"])
def test_a_jpeg_that_has_less_data_than_its_size_asks_for_is_refused(tmp_path, options, size, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (160, 320, 3), np.uint8)
    if kind == "plain edge":
        pixels[100:] = 255
    elif kind == "ramp":
        pixels[:] = np.linspace(0, 255, 320)[:, None]
    Image.fromarray(pixels).convert("L" if kind == "grey" else "RGB").save(tmp_path / "a.jpg", **options)
    with pytest.raises(DataError, match="less data than its size"):
        read_image(with_size(tmp_path / "a.jpg", tmp_path / "b.jpg", *size))


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_a_whole_jpeg_with_a_plain_lower_edge_is_read(tmp_path, options):
    pixels = np.random.default_rng(0).integers(0, 255, (160, 320, 3), np.uint8)
    pixels[100:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", **options)
    assert read_image(tmp_path / "a.jpg").shape == (160, 320, 3)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "a.jpg")


def test_the_budget_is_one_of_bytes_too(tmp_path):
    Image.new("P", (5000, 5000)).save(tmp_path / "a.gif")
    with pytest.raises(UnsafeDataError, match="bytes"):
        read_image(tmp_path / "a.gif", max_pixels=25_000_000)
    assert read_image(tmp_path / "a.gif", max_pixels=100_000_000).shape == (5000, 5000, 3)


@pytest.mark.parametrize(("mode", "suffix"), [("1", "png"), ("L", "png"), ("P", "gif")])
def test_a_small_file_within_the_pixel_budget_is_refused_for_its_bytes(tmp_path, mode, suffix):
    Image.new(mode, (13_000, 13_000)).save(tmp_path / f"a.{suffix}", optimize=True)
    assert (tmp_path / f"a.{suffix}").stat().st_size < 500_000
    assert MAX_PIXELS > 13_000**2
    with pytest.raises(UnsafeDataError, match=r"bytes; the budget is 1,073,741,820"):
        read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(("mode", "suffix"), [("1", "png"), ("L", "png"), ("P", "gif"), ("RGB", "png")])
def test_reading_takes_no_more_memory_than_the_budget_says(tmp_path, mode, suffix):
    side = 5000 if mode == "RGB" else 4000
    Image.new(mode, (side, side)).save(tmp_path / f"a.{suffix}")
    program = (
        "import resource, sys; from mmcore.data.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(sys.argv[1], max_pixels=int(sys.argv[2]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    pixels = 50_000_000
    arguments = [sys.executable, "-c", program, tmp_path / f"a.{suffix}", str(pixels)]
    grown = subprocess.run(arguments, capture_output=True, check=True)
    assert int(grown.stdout) < BYTES_PER_PIXEL * pixels
