"""From a plugin's recipe to this run's: plugin, then --config YAML, then --set key=value, each number with its source.

YAML is read by a loader that cannot build objects, within limits on size, depth and aliases, refuses duplicate keys,
reads `1e-4` as a number and leaves `on`, `off`, `yes` and `no` as words.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmcore.contract.recipe import Recipe, Stage
from mmcore.errors import RecipeError, suggest

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 30
MAX_YAML_ALIASES = 100

Tree = dict[str, Any]
Origins = dict[str, str]
"""Dotted key -> where its value comes from."""


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


def read_config(path: Path) -> Tree:
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


def resolve(stage: Stage, config: Path | None = None, sets: Sequence[str] = ()) -> tuple[Stage, Origins]:
    """Apply --config and --set to a plugin's stage.

    Args:
        stage: as the plugin gives it.
        config: a YAML file with the same nesting as `Stage`.
        sets: `key.sub=value`, the value in YAML.

    Returns:
        The resolved stage, and for every changed key who changed it.

    Raises:
        RecipeError: an unknown key (with the nearest one), or a value that does not fit.
    """
    tree = to_tree(stage)
    origins: Origins = {}
    if config is not None:
        for path, value in _leaves(read_config(config)):
            _assign(tree, path, value, str(config), origins)
    for text in sets:
        path, value = _parse_set(text)
        _assign(tree, path, value, f"--set {text}", origins)
    return from_tree(tree, "the resolved recipe"), origins


def to_tree(recipe: Recipe) -> Tree:
    """Plain nested values of a recipe, ready for YAML or JSON."""
    return json.loads(recipe.model_dump_json())


def from_tree(tree: Mapping[str, Any], where: str) -> Stage:
    """A stage from plain nested values.

    Raises:
        RecipeError: unknown keys, or values that do not fit; names the key.
    """
    try:
        return Stage.model_validate(_tuples(tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{key}: {first['msg'].lower()}, got {first['input']!r}", where=where) from None


def _tuples(value: Any) -> Any:
    """YAML and JSON know only lists; recipes are immutable and hold tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(entry) for entry in value)
    return value


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


def _parse_set(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set wants key=value, got {text!r}", do="for example --set optim.lr=1e-4")
    return key.strip().split("."), parse_yaml(value, f"--set {text}")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield [*path, str(key)], value


def _assign(tree: Tree, path: list[str], value: Any, source: str, origins: Origins) -> None:
    """Put one value into the tree, checking each key on the way against the recipe's own structure."""
    branch: Tree = tree
    for depth, key in enumerate(path):
        parents = path[:depth]
        if _names_are_free(parents):  # all that is left is one name, dots included: a parameter pattern, say
            branch[".".join(path[depth:])] = value
            break
        if key not in branch and not _checked_later(parents):
            place = f" in {'.'.join(parents)}" if parents else ""
            known = list(branch)
            advice = suggest(key, known, "see `mmcore plan` for every key")
            raise RecipeError(f"no recipe key {key!r}{place}", where=source, known=known, do=advice)
        if depth == len(path) - 1:
            branch[key] = value
            break
        if branch.get(key) is None:
            branch[key] = {}
        branch = branch[key]
        if not isinstance(branch, dict):
            raise RecipeError(f"{'.'.join(path[: depth + 1])} is a value, not a group of keys", where=source)
    origins[".".join(path)] = source
    _keep_consistent(tree, path, value)


_FREE = (
    ("data", "sources", "*", "options"),
    ("data", "transform"),
    ("optim", "multipliers"),
    ("loss_weights",),
    ("model",),
)
"""Groups whose keys are names the recipe does not fix; the model or the plugin checks them."""


def _names_are_free(path: Sequence[str]) -> bool:
    return any(
        len(path) == len(free) and all(want in ("*", got) for want, got in zip(free, path, strict=True))
        for free in _FREE
    )


def _checked_later(parents: Sequence[str]) -> bool:
    # What these groups may hold depends on another key (`schedule.kind`) or on their being there at all (`lora`);
    # constructing the recipe checks them.
    return list(parents) in (["schedule"], ["lora"])


_SCHEDULE_KEYS = {
    "multistep": ("kind", "milestones", "gamma", "warmup_steps", "warmup_factor"),
    "cosine": ("kind", "warmup_steps", "warmup_ratio", "warmup_factor", "final_factor"),
    "linear": ("kind", "warmup_steps", "warmup_ratio", "warmup_factor", "final_factor"),
    "constant": ("kind", "warmup_steps", "warmup_factor"),
}


def _keep_consistent(tree: Tree, path: list[str], value: Any) -> None:
    """Drop what a changed choice makes meaningless: the other length, the other schedule's numbers."""
    if path == ["steps"] and value is not None:
        tree["epochs"] = None
    elif path == ["epochs"] and value is not None:
        tree["steps"] = None
    elif path == ["schedule", "kind"] and value in _SCHEDULE_KEYS:
        tree["schedule"] = {key: entry for key, entry in tree["schedule"].items() if key in _SCHEDULE_KEYS[value]}
