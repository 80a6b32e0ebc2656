"""YAML means what YAML 1.2 says, is bounded whatever it expands to, and comes back as it went out."""

import math
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.base.yamltext import MAX_YAML_BYTES, parse_yaml, read_yaml, to_yaml
from mmcore.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("3", 3), ("+3", 3), ("on", "on"), ("no", "no"), ("true", True), (".5", 0.5),
        ("1_000", 1000), ("1:30", "1:30"), ("010", 10), ("0o17", 15), ("0x1F", 31), ("1.", 1.0), ("~", None),
        ("2024-01-01", "2024-01-01"), ("<<", "<<"), ("=", "="), ("'3'", "3"), ("!!str 3", "3"), ("!!int '3'", 3),
        ("-.inf", -math.inf), ("", None), ("1.2.3", "1.2.3"), ("_1", "_1"), ("0b1", "0b1"), ("!!float 1.5", 1.5),
    ],
)  # fmt: skip
def test_words_and_numbers_mean_what_they_say(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


def test_keys_are_words_whatever_they_look_like() -> None:
    assert parse_yaml("{010: a, null: b, 1e3: c, <<: {d: 1}}", "test") == {
        "010": "a", "null": "b", "1e3": "c", "<<": {"d": 1},
    }  # fmt: skip


def levels(count: int) -> str:
    """Few aliases, ten to the power of `count` values."""
    names = "abcdefghijklmnop"[: count + 1]
    lines = [f"{new}: &{new} [{', '.join(['*' + old] * 10)}]" for old, new in pairwise(names)]
    return "\n".join(["a: &a [" + ", ".join("x" * 10) + "]", *lines])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "key 'a' stands twice"),
        ("1: a\n'1': b", "key '1' stands twice"),
        ("a: [" * 50 + "]" * 50, "nested deeper"),
        ("x" * (MAX_YAML_BYTES + 1), "longer than"),
        (levels(8), "values, those behind aliases included"),
        ("a: &a [*a]", "an alias stands within what it stands for"),
        ("a: &a {b: {c: *a}}", "an alias stands within what it stands for"),
        ("!!set {a, b}", "the tag !!set"),
        ("a: !!set {? [1]}", "the tag !!set"),
        ("!!omap [a: 1]", "the tag !!omap"),
        ("!!timestamp 2024-01-01", "the tag !!timestamp"),
        ("!!binary aGVsbG8=", "the tag !!binary"),
        ("!mine 3", "the tag !mine"),
        ("!!bool yes", "the tag !!bool"),
        ("a: !!python/name:os.system x", "the tag !!python/name:os.system"),
        ("{? [1] : 2}", "a key must be a word"),
        ("{*a : 2}", "undefined alias"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a:\n\t- tab", "not a valid configuration"),
        ("{a: 1", "not a valid configuration"),
        ("a: \x00", "not a valid configuration"),
        ("9" * 5000, "not a valid configuration"),
    ],
)
def test_hostile_or_broken_yaml_is_refused_quickly(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "test")
    assert words in str(caught.value)
    assert time.process_time() - start < 5


def test_a_bare_star_is_told_to_be_quoted() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml("trainable: [*]", "--set")
    assert caught.value.do == 'a bare * begins an alias: write "*" in quotes'
    assert parse_yaml('trainable: ["*"]', "--set") == {"trainable": ["*"]}


def test_aliases_within_the_bound_are_followed() -> None:
    parsed = parse_yaml("a: &a {lr: 1e-4}\nb: [" + ", ".join(["*a"] * 500) + "]", "test")
    assert parsed["b"] == [{"lr": 1e-4}] * 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: caf\u00e9".encode("latin-1"), "not UTF-8: byte 9 is 0xe9"),
        ("a: 1".encode("utf-16"), "not UTF-8"),
        (b"- 1", "a mapping of keys to values"),
        (b"a" * (4 * MAX_YAML_BYTES + 1), "longer than"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=words) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_configuration_and_a_mark_at_the_beginning_is_none_of_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such configuration file"):
        read_yaml(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfsteps: 3")
    assert read_yaml(tmp_path / "mine.yaml") == {"steps": 3}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"), max_size=8)


@given(
    st.dictionaries(
        WORDS | st.sampled_from(["010", "1:30", "1e3", "null", "yes", "~", "2024-01-01", "<<", "="]),
        st.recursive(
            SCALARS.filter(lambda value: not isinstance(value, str)) | WORDS,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_written_reads_back(tree: dict) -> None:
    assert parse_yaml(to_yaml(tree), "test") == tree
