"""Annotation files as people really have them: taken where they are clear, else named with what is wrong.

The inputs lie in the folder `cases` of the reference data; without it these tests are skipped.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str]]
OBJECTS = ["--plugin", "glee", "--stage", "2", "--sources", "coco"]
SPEECH = ["--plugin", "visper", "--stage", "ift", "--sources", "questions"]


def check(run: Run, shared: Path, folder: Path, case: str, which: list[str], *more: str) -> tuple[int, str]:
    """`mmcore data check` on a copy of a case."""
    if not (shared / "cases" / case).is_dir():
        pytest.skip(f"no case {case} in the reference data")
    shutil.copytree(shared / "cases" / case / "data", folder / "data")
    return run("data", "check", *which, "--variant", "tiny", "--data", "data", "--workers", "0", *more)


@pytest.mark.parametrize("case", ["008", "010", "012", "026", "027", "029", "030", "033", "039", "040"])
def test_ordinary_coco_files_are_taken(run: Run, shared: Path, tmp_path: Path, case: str) -> None:
    pytest.importorskip("mmcore_glee")
    code, said = check(run, shared, tmp_path, case, OBJECTS)
    assert code == 0, said


@pytest.mark.parametrize("case", ["048", "051", "052", "053", "059", "062", "064"])
def test_ordinary_conversations_are_taken(run: Run, shared: Path, tmp_path: Path, case: str) -> None:
    pytest.importorskip("mmcore_visper")
    code, said = check(run, shared, tmp_path, case, SPEECH)
    assert code == 0, said


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("019", "is not four finite numbers"),
        ("021", "no polygon has three points"),
        ("022", "has an object to train on (8 crowds)"),
        ("032", "does not fit 64 bits"),
        ("036", "cut at the border"),
        ("038", "its EXIF entry turns it"),
        ("044", 'format="COCO boxes"'),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_named(run: Run, shared: Path, tmp_path: Path, case: str, words: str) -> None:
    pytest.importorskip("mmcore_glee")
    code, said = check(run, shared, tmp_path, case, OBJECTS)
    assert code == 1
    assert words in said, said


@pytest.mark.parametrize(("case", "words"), [("050", "an answer has <image>"), ("057", "of the conversation is empty")])
def test_what_is_wrong_with_a_conversation_is_named(
    run: Run, shared: Path, tmp_path: Path, case: str, words: str
) -> None:
    pytest.importorskip("mmcore_visper")
    code, said = check(run, shared, tmp_path, case, SPEECH)
    assert code == 1
    assert words in said, said
