"""YAML in and out: plain values only, by the rules of YAML 1.2, within limits, and text that reads back the same.

PyYAML parses; what a scalar means is decided here. So `no`, `on`, `1:30` and `2024-01-01` are words, `010` is ten,
`1e-4` is a number, and there is no tag that builds anything (`!!set`, `!!python/...`), no merge key and no key that is
not a word. Aliases are followed within a bound on what they expand to.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmcore.errors import RecipeError

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 30
MAX_YAML_VALUES = 100_000
"""Values in all, those behind aliases counted each time they are used."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = "!unquoted"
"""Our tag for scalars without quotes and without a tag of their own."""
_KINDS = {_TAG + "int": int, _TAG + "float": float, _TAG + "bool": bool, _TAG + "null": type(None)}
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (re.compile(r"[-+]?[0-9][0-9_]*"), lambda text: int(text.replace("_", ""))),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (
        re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
        lambda text: float(text.replace("_", "")),
    ),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


def plain(text: str) -> Any:
    """What an unquoted scalar means.

    >>> [plain(text) for text in ("010", "1e-4", "1:30", "no", "null")]
    [10, 0.0001, '1:30', 'no', None]
    """
    if text in _WORDS:
        return _WORDS[text]
    for pattern, read in _NUMBERS:
        if pattern.fullmatch(text):
            return read(text)
    return text


_ALIAS = re.compile("scanning an alias|undefined alias")


def parse_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        RecipeError: it is too large or deep, asks for objects, has duplicate keys or is not YAML.
    """
    if len(text) > MAX_YAML_BYTES:
        raise RecipeError(f"the YAML is longer than {MAX_YAML_BYTES} characters", where=where)
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Values().of(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        said = [getattr(error, "context", None), getattr(error, "problem", None)]
        problem = ", ".join(part for part in said if part) or str(error)
        do = 'a bare * begins an alias: write "*" in quotes' if _ALIAS.search(problem) else "correct the YAML"
        raise RecipeError(f"not a valid configuration: {problem}", where=place, do=do) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: there is no such file, or it holds something else than a mapping in UTF-8.
    """
    try:
        if not path.is_file():
            raise RecipeError("there is no such configuration file", where=path)
        if path.stat().st_size > 4 * MAX_YAML_BYTES:
            raise RecipeError(f"the YAML is longer than {MAX_YAML_BYTES} characters", where=path)
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the file is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            where=path,
            do="save it as UTF-8",
        ) from None
    except OSError as error:
        raise RecipeError(f"cannot read the configuration: {error.strerror}", where=path) from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError("a configuration is a mapping of keys to values", where=path)
    return tree


class _Loader(yaml.SafeLoader):
    """Composes nodes and leaves the meaning of scalars alone."""

    depth = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        unquoted = kind is yaml.ScalarNode and implicit[0]
        return _PLAIN if unquoted else super().resolve(kind, None, (False, True))

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_YAML_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Values:
    """From nodes to values."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[yaml.Node] = []

    def of(self, node: yaml.Node) -> Any:
        """The value of a node, aliases followed.

        Raises:
            YAMLError: too many values, an alias within what it stands for, a tag, or a key that is no word or stands
                twice.
        """
        self._count += 1
        if self._count > MAX_YAML_VALUES:
            raise _refusal(node, f"more than {MAX_YAML_VALUES} values, those behind aliases included")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if any(node is outer for outer in self._open):
            raise _refusal(node, "an alias stands within what it stands for")
        if len(self._open) >= MAX_YAML_DEPTH:
            raise _refusal(node, f"nested deeper than {MAX_YAML_DEPTH} levels")
        self._open.append(node)
        value = self._mapping(node) if isinstance(node, yaml.MappingNode) else self._sequence(node)
        self._open.pop()
        return value

    def _sequence(self, node: yaml.Node) -> list[Any]:
        _check_tag(node, "seq")
        return [self.of(entry) for entry in node.value]

    def _mapping(self, node: yaml.Node) -> dict[str, Any]:
        _check_tag(node, "map")
        values: dict[str, Any] = {}
        for key, entry in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "a key must be a word")
            if key.tag != _PLAIN:
                _check_tag(key, "str")
            if key.value in values:
                raise _refusal(key, f"key {key.value!r} stands twice")
            values[key.value] = self.of(entry)
        return values


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.tag == _TAG + "str":
        return node.value
    value = plain(node.value)
    if node.tag == _PLAIN or type(value) is _KINDS.get(node.tag):
        return value
    raise _refusal(node, f"the tag {_spelled(node.tag)} cannot be used here")


def _check_tag(node: yaml.Node, kind: str) -> None:
    if node.tag != _TAG + kind:
        raise _refusal(node, f"the tag {_spelled(node.tag)} cannot be used here")


def _spelled(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def to_yaml(tree: Mapping[str, Any]) -> str:
    """YAML text that `parse_yaml` reads back to the same values."""
    return yaml.dump(_plain_floats(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain_floats(value: Any) -> Any:
    # PyYAML writes 1e-05 without a dot, which other YAML readers take for a string: give it one.
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        return _Number(text.replace("e", ".0e") if "e" in text and "." not in text else text)
    if isinstance(value, Mapping):
        return {key: _plain_floats(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_floats(entry) for entry in value]
    return value


class _Number(str):
    """A float already in its final spelling."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper, quoting also the words that our loader, but not PyYAML's own, reads as numbers: a name `1e3`."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(_TAG + "str", text, style=None if plain(text) is text else "'")


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(_Number, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", str(number)))
