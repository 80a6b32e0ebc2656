"""The walker gives what `json.load` gives, with the place of every element, and stops at damage."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.data.formats import jsonstream
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.errors import DataError, MissingDataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(
    st.text(st.characters(max_codepoint=127), max_size=5), values | st.lists(values, max_size=6), max_size=5
)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path) -> dict:
    """The whole document, put together from its elements."""
    result: dict = {}
    with FileBytes(path) as content:
        for key, start, end, _ in walk(path):
            result.setdefault(key, []).append(content.value(start, end))
    return result


@settings(max_examples=200, deadline=None)
@given(documents, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_elements_are_those_of_json_load_for_any_window(tmp_path_factory, document, window, ascii_only, indent):
    folder = tmp_path_factory.mktemp("json")
    path = write(folder, json.dumps(document, ensure_ascii=ascii_only, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "WINDOW", window)
        found = read(path)
    expected = {key: value if isinstance(value, list) else [value] for key, value in document.items() if value != []}
    assert found == expected


def test_a_file_may_be_an_array_and_begin_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf [1, {"a": "\xc3\xa4"}] \n')
    assert read(path) == {"": [1, {"a": "ä"}]}


@pytest.mark.parametrize("length", [1, 9, 30, 57, 93])
def test_a_file_that_was_cut_short_is_an_error_that_names_it(tmp_path, length):
    whole = json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 12, "bbox": [1, 2, 3, 4]}]})
    assert len(whole) > 93
    with pytest.raises(DataError, match="not valid JSON") as error:
        list(walk(write(tmp_path, whole[:length])))
    assert "a.json, byte" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "   ",
        "hello",
        "7",
        '{"a" 1}',
        "{'a': 1}",
        '{"a": [1 2]}',
        '{"a": [1,]}',
        '{"a": 1} x',
        '{"a": nul}',
        "\x80\x04].",
    ],
)
def test_what_is_not_json_is_refused(tmp_path, content):
    with pytest.raises(DataError):
        list(walk(write(tmp_path, content)))


def test_damage_in_the_middle_is_found_without_reading_to_the_end(tmp_path):
    elements = ", ".join(["[1, 2, 3]"] * 1000)
    path = write(tmp_path, f'{{"a": [{elements}, [1, 2 3], {elements}]}}')
    with pytest.raises(DataError, match="delimiter") as error:
        list(walk(path))
    place = int(str(error.value).split("byte ")[1].split(" ")[0])
    assert path.read_text()[place:].startswith("3], ")


@pytest.mark.parametrize("window", [100, 1 << 22])
def test_what_nobody_can_decode_is_cut_out_of_its_element_and_the_others_are_whole(tmp_path, monkeypatch, window):
    monkeypatch.setattr(jsonstream, "WINDOW", window)
    deep, long = "[" * 100_000 + "]" * 100_000, "9" * 5000
    path = write(tmp_path, f'{{"a": [{{"n": 1}}, {{"n": 2, "x": {deep}, "y": -{long}, "z": "ä"}}, {{"n": 3}}]}}')
    first, second, third = read(path)["a"]
    assert (first, third) == ({"n": 1}, {"n": 3})
    assert (second["n"], second["y"], second["z"]) == (2, -math.inf, "ä")
    assert json.dumps(second["x"]).count("[") < 200


def test_deep_nesting_that_does_not_end_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not valid JSON"):
        list(walk(write(tmp_path, '{"a": [' + "[" * 100_000)))


def test_an_element_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonstream, "WINDOW", 64)
    monkeypatch.setattr(jsonstream, "MAX_ELEMENT", 256)
    assert read(write(tmp_path, json.dumps({"a": ["x" * 200]}))) == {"a": ["x" * 200]}
    with pytest.raises(DataError, match="longer than 256"):
        list(walk(write(tmp_path, json.dumps({"a": ["x" * 400]}))))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="missing"):
        list(walk(tmp_path / "b.json"))
