"""`make pictures`: what is drawn from a run's strips and from followed clips, and what is left alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmcore.show.marks import contact_sheet
from mmcore.show.strip import cell, sheet
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "docs" / "_site" / "pictures.py"
SMALL = 200_000
"""Bytes of a picture of the site at most."""


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("site_pictures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(colour: str, size: tuple[int, int] = (300, 300)) -> Image.Image:
    return Image.new("RGB", size, colour)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def test_three_records_of_every_step_and_the_truth_stand_side_by_side(pictures, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "pictures" / "coco_val").mkdir(parents=True)
    flat("white", (1400, 700)).save(run / "curves.png")
    for step, colour in ((350, "red"), (700, "blue")):
        cells = [cell("a", flat(colour), flat("green")) for _ in range(5)]
        sheet(cells, "strip").save(run / "pictures" / "coco_val" / f"step-{step:08d}.jpg")
    pictures.progress(run, tmp_path)
    assert opened(tmp_path / "curves.jpg").size == (1200, 600)
    drawn = opened(tmp_path / "over-time.jpg")
    third = drawn.width // 3
    seen = [drawn.getpixel((third // 2 + column * third, drawn.height - 160)) for column in range(3)]
    assert [max(range(3), key=pixel.__getitem__) for pixel in seen] == [0, 2, 1]


def test_of_a_followed_clip_the_first_row_of_frames_is_shown(pictures, tmp_path: Path) -> None:
    frames = [flat("red")] * 6 + [flat("blue")] * 2
    contact_sheet(frames, columns=6, titles=[f"frame {n}" for n in range(8)], cell=384).save(tmp_path / "00900.png")
    contact_sheet(frames[6:], columns=2).save(tmp_path / "00901.png")
    pictures.tracks(tmp_path, tmp_path)
    drawn = opened(tmp_path / "tracks.jpg")
    assert drawn.width == 1400
    red, _, blue = np.asarray(drawn).transpose(2, 0, 1)
    assert not ((blue > 150) & (red < 150)).any()
    assert ((red > 150) & (blue < 150)).mean() > 0.5


def test_what_is_drawn_from_a_folder_that_is_not_there_stays(tmp_path: Path) -> None:
    options = [f"--{name}={tmp_path / 'nowhere'}" for name in ("detector", "talker", "masks", "tracks", "photographs")]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, f"--out={tmp_path / 'out'}"], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("stays as it is") == len(options)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("path", sorted(SCRIPT.parents[1].glob("pictures/*.jpg")), ids=lambda path: path.name)
def test_every_picture_is_small_and_shown_somewhere(path: Path) -> None:
    pages = [SCRIPT.parents[2] / "README.md", *SCRIPT.parents[1].glob("*.md")]
    assert path.stat().st_size < SMALL
    assert any(f"pictures/{path.name})" in page.read_text() for page in pages)
