"""YAML in and out: a loader that cannot build objects, within limits, and text that reads back to the same values.

Read are plain values only, within limits on size, depth and aliases; duplicate keys are refused, `1e-4` is a number and
`on`, `off`, `yes` and `no` are words.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmcore.errors import RecipeError

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 30
MAX_YAML_ALIASES = 100


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 numbers and booleans, and limits."""

    depth = 0
    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_YAML_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_YAML_ALIASES} aliases")
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_YAML_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, (list, dict)):
                raise yaml.YAMLError(f"a key must be a word, line {key_node.start_mark.line + 1}")
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} stands twice, line {key_node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)$|^[-+]?(?:\d[\d_]*\.\d*|\.\d+)$|^[-+]?\.(?:inf|nan)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        RecipeError: it is too large or deep, asks for objects, has duplicate keys or is not YAML.
    """
    if len(text) > MAX_YAML_BYTES:
        raise RecipeError(f"the YAML is longer than {MAX_YAML_BYTES} characters", where=where)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader subclass
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"not a valid configuration: {problem}", where=place, do="correct the YAML") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: there is no such file, or it holds something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the configuration: {error}", where=path) from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError("a configuration is a mapping of recipe keys", where=path)
    return tree


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


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
}
_Dumper.add_representer(_Number, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", str(number)))
