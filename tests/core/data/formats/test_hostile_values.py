"""Whatever stands in one field of one record: the others are read, and that one is used, refused or named."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Recipe, Source
from mmcore.data.entry import open_entry
from mmcore.data.formats.format import TASKS
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.questions import read_questions
from mmcore.data.formats.registry import Formats
from mmcore.data.grounded import GroundedIndex
from mmcore.data.records import Records
from mmcore.data.videos import VideoRecords
from mmcore.errors import MmcoreError

FORMATS = Formats.of()
SAMPLED = [name for name, format in FORMATS.items() if format.sample is not None]
HOSTILE = {
    "half a surrogate": r'"\ud800"',
    "400 digits": "9" * 400,
    "5000 digits": "-" + "9" * 5000,
    "infinite": "1e999",
    "nested 20,000 deep": "[" * 20_000 + "]" * 20_000,
    "objects nested 5000 deep": '{"a":' * 5000 + "1" + "}" * 5000,
}
_MARK = "@here@"


class Options(Recipe):
    """Of a family in these tests."""

    task: str | None = None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of a value; of lists the second element, or the only one."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        number = min(1, len(value) - 1)
        yield from places(value[number], (*path, number))


def with_mark(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return _MARK
    copy = value.copy()
    copy[path[0]] = with_mark(value[path[0]], path[1:])
    return copy


def variants(file: Path, every: bool) -> Iterator[tuple[str, str]]:
    """The file with a hostile value in every field of one record: each of them, or one in turn."""
    text = file.read_text(encoding="utf-8")
    lines = file.suffix == ".jsonl"
    value = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    for number, path in enumerate(places(value)):
        marked = with_mark(value, path)
        if lines and not isinstance(marked, list):
            continue
        whole = "\n".join(map(json.dumps, marked)) if lines else json.dumps(marked)
        kinds = list(HOSTILE) if every else [list(HOSTILE)[number % len(HOSTILE)]]
        for kind in kinds:
            yield f"{'.'.join(map(str, path))}: {kind}", whole.replace(f'"{_MARK}"', HOSTILE[kind])


def read_all(root: Path, name: str, annotations: Any, images: str, cache: Path) -> int:
    """Read every record as training does; how many can be used."""
    source = Source(weight=1.0, format=name, annotations=annotations, images=images)
    entry = open_entry(
        "mine", source, DataContext(root, cache, "tiny", 0), FORMATS, tasks=tuple(TASKS), options=Options
    )
    if FORMATS[name].content == "questions":
        return len(read_questions(entry.files[0]))
    kinds = {"conversations": LlavaIndex, "grounded": GroundedIndex, "videos": VideoRecords}
    kind = kinds.get(FORMATS[name].content, Records)
    records, good = kind(entry.index()), 0
    for position in range(len(records)):
        try:
            records[position]
            good += 1
        except MmcoreError as error:
            str(error).encode("utf-8", "backslashreplace")
    return good


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SAMPLED)
def test_one_hostile_field_is_used_refused_or_named_and_costs_no_other_record(
    tmp_path: Path, name: str, every: bool
) -> None:
    root, number = tmp_path / "data", itertools.count()
    written = FORMATS[name].sample(root)  # type: ignore[misc]
    names = [written.annotations] if isinstance(written.annotations, str) else list(written.annotations)
    files = [file for one in names for file in ([root / one] if (root / one).is_file() else (root / one).rglob("*"))]
    files = [file for file in files if file.suffix in (".json", ".jsonl")][:2]
    if not files:
        pytest.skip("a format without JSON")
    whole = read_all(root, name, written.annotations, written.images, tmp_path / "cache")
    for file in files:
        content = file.read_bytes()
        for what, text in variants(file, every):
            file.write_text(text, encoding="utf-8")
            good = read_or_refuse(root, name, written.annotations, written.images, tmp_path / f"cache-{next(number)}")
            # A category that is gone takes all its objects along.
            assert good is None or good >= whole - 3 or what.startswith("categories"), what
        file.write_bytes(content)


def read_or_refuse(root: Path, name: str, annotations: Any, images: str, cache: Path) -> int | None:
    """How many records can be used; None where the file is refused, in words of moderate length."""
    try:
        return read_all(root, name, annotations, images, cache)
    except MmcoreError as error:
        return None if len(str(error)) < 2000 else -1
    finally:
        shutil.rmtree(cache, ignore_errors=True)
