"""Exported folders whose `config.json` was damaged or is somebody else's: one clear error, whatever was done to it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmcore import plugins
from mmcore.errors import MmcoreError, WeightsError
from mmcore.runs.config import to_tree
from mmcore.runs.opened import from_pretrained

HOSTILE = [None, [], {}, "", "x" * 300, "\ud800", -1, 10**400, True, [[[]]], {"a": {"a": 1}}]


@pytest.fixture
def written(install) -> dict[str, Any]:
    """As the export writes it, for a family that fails when its model is built: everything before must have failed."""
    name = install("fragile")
    plugin = plugins.load(name)
    stage = plugins.stages(plugins.manager(plugin, ()), plugin, "default")[0]
    told = {"names": "own", "plugin": name, "variant": "default", "step": 3, "stage": to_tree(stage)}
    return {"model_type": "mmcore-fragile", "mmcore": told}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'"text"', b"3", b"null", b"\xff\xfe\x00", b'{"mmcore":', b'{"mmcore":' * 100_000, b"[" * 100_000],
    ids=["empty", "list", "text", "number", "null", "not UTF-8", "cut", "deep objects", "deep lists"],
)
def test_a_file_that_is_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match="not a folder that mmcore exported"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("others", [["Gemma2ForCausalLM"], "Gemma2ForCausalLM", {"a": 1}, [3], 3])
def test_another_librarys_folder_is_told_as_that(others: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": others}))
    with pytest.raises(WeightsError, match="not a model in mmcore's own format"):
        from_pretrained(tmp_path)


def test_every_value_of_it_may_be_anything(written: dict[str, Any], tmp_path: Path) -> None:
    tried = 0
    for place in places(written):
        for value in HOSTILE:
            (tmp_path / "config.json").write_text(json.dumps(changed(written, place, value)))
            with pytest.raises(MmcoreError):
                from_pretrained(tmp_path)
            tried += 1
    assert tried > 500


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in nested JSON, the outermost left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def changed(value: Any, place: tuple[str | int, ...], new: object) -> Any:
    whole = copy.deepcopy(value)
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return whole
