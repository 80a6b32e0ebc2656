"""Whatever happened to an annotation file of any format: it is read, or refused in words, and nothing is waited for."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmcore.base.files import hash_file

from ..damages import DAMAGES
from .test_hostile_values import FORMATS, SAMPLED, read_or_refuse

SECONDS = 60
"""Within which each file is read or refused, many times what it takes."""
KINDS = {name: damage for name, damage in DAMAGES.items() if name != "as large as a disk"}
"""Annotation files of many gigabytes are read: only zeros tell that this one is none."""


@pytest.fixture
def no_waiting() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise AssertionError("waits for something")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def annotation_files(root: Path, name: str) -> tuple[object, str, list[Path]]:
    """What a recipe names, and files of it: of each ending the second, which is none that says what the others are."""
    written = FORMATS[name].sample(root)  # type: ignore[misc]
    names = [written.annotations] if isinstance(written.annotations, str) else list(written.annotations)
    places = [root / one for one in names]
    files = sorted(path for place in places for path in (place.rglob("*") if place.is_dir() else [place]))
    files = [path for path in files if path.is_file() and path.suffix not in (".jpg", ".png", ".mp4")]
    return written.annotations, written.images, list({path.suffix: path for path in files[:2] + files[-1:]}.values())


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", SAMPLED)
def test_a_damaged_annotation_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    annotations, images, files = annotation_files(root, name)
    for file in files:
        content, before = file.read_bytes(), hash_file(file)
        for number, (damage, apply) in enumerate(KINDS.items()):
            apply(file)
            signal.alarm(SECONDS)
            good = read_or_refuse(root, name, annotations, images, tmp_path / f"cache-{number}")
            signal.alarm(0)
            assert good is None or good >= 0, f"{file.name}, {damage}: its words have no end"
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
            file.write_bytes(content)
        assert hash_file(file) == before
