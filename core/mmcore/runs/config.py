"""From a plugin's recipe to this run's: plugin, then --config YAML, then --set key=value, each number with its source.

Where a key may stand is read off the recipe's own classes (`mmcore.runs.entries`), so a new entry needs nothing here.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from mmcore.base.yamltext import parse_yaml, read_yaml
from mmcore.contract.recipe import Recipe, Stage
from mmcore.errors import RecipeError, suggest
from mmcore.runs.entries import CLASSES, Tree, assign
from mmcore.runs.entries import Origins as Origins
from mmcore.runs.former import modern


def resolve(
    stage: Stage,
    config: Path | None = None,
    sets: Sequence[str] = (),
    shorthands: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[Stage, Origins]:
    """Apply --config and --set to a plugin's stage.

    Args:
        stage: as the plugin gives it.
        config: a YAML file with the same nesting as `Stage`.
        sets: `key.sub=value`, the value in YAML.
        shorthands: of the family (`Family.shorthands`).

    Returns:
        The resolved stage, and for every changed key who changed it.

    Raises:
        RecipeError: an unknown key (with the nearest one), or a value that does not fit.
    """
    tree = to_tree(stage)
    origins: Origins = {}
    if config is not None:
        for path, value in _written_out(_changes(read_yaml(config), (), str(config)), shorthands, tree, str(config)):
            assign(tree, path, value, str(config), origins)
    for text in sets:
        start, given = _parse_set(text)
        for path, value in _written_out(_changes(given, start, f"--set {text}"), shorthands, tree, f"--set {text}"):
            assign(tree, path, value, f"--set {text}", origins)
    sources, sets_before = stage.data.sources, stage.validation
    needed = ("weight", "format", "annotations")
    _check_new("data.sources", tree["data"]["sources"], sources, needed, {"validation": sets_before})
    _check_new("validation", tree["validation"], sets_before, needed[1:], {"data.sources": sources})
    best = stage.best_metric
    if best and "best_metric" not in origins:
        name = best.partition("/")[0]
        if name in stage.validation and name not in tree["validation"]:
            tree["best_metric"], origins["best_metric"] = None, f"its validation set {name} was taken out"
    _refuse_own(origins)
    return from_tree(tree, "the resolved recipe"), origins


def _written_out(
    changes: Iterator[tuple[tuple[str, ...], Any]],
    shorthands: Mapping[str, Mapping[str, Any]],
    tree: Tree,
    source: str,
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The changes, a family's shorthands as the entries that they stand for."""
    for path, value in changes:
        if len(path) != 1 or path[0] not in shorthands:
            yield path, value
            continue
        if not isinstance(value, bool):
            raise RecipeError(f"{path[0]} is a switch, not {value!r}", where=source, do=f"write {path[0]}=true")
        for key, entry in shorthands[path[0]].items() if value else ():
            added = [one for one in entry if one not in tree["frozen"]] if key == "frozen" else []
            yield tuple(key.split(".")), [*tree["frozen"], *added] if key == "frozen" else entry


def _refuse_own(origins: Origins) -> None:
    """A recipe never names a folder outside the data root: only an own-data file does, which its user writes. Nor does
    it list the classes of a data set, which are read from its annotations."""
    ways = {
        "root": "describe the folder in an own-data file: --own FILE, or --add FILE:WEIGHT",
        "class_names": "leave it out: the annotations say it, and `classes` renames",
    }
    for key, source in origins.items():
        ending = key.rpartition(".")[2]
        if ending in ways and key.startswith(("data.sources.", "validation.")) and key.count(".") <= 3:
            raise RecipeError(f"{key} is set by --own and --add alone", where=source, do=ways[ending])


def _check_new(
    where: str, entries: Tree, before: Mapping[str, Any], needed: Sequence[str], elsewhere: Mapping[str, Iterable[str]]
) -> None:
    """An entry under a new name is a new entry, if it says all that is needed, else most likely a misspelt name."""
    for name in entries.keys() - before.keys():
        missing = [key for key in needed if not entries[name].get(key)]
        if missing:
            for other, names in elsewhere.items():
                if name in names:
                    raise RecipeError(
                        f"{name!r} stands in {other}, not in {where}",
                        where=f"{where}.{name}",
                        do=f"write {other}.{name} instead",
                    )
            raise RecipeError(
                f"{name!r} is new in {where} and lacks {', '.join(missing)}",
                where=where,
                known=list(before),
                do=suggest(name, list(before), f"give {', '.join(missing)} as well, or choose one of these"),
            )


def to_tree(recipe: Recipe) -> Tree:
    """Plain nested values of a recipe, ready for YAML or JSON."""
    return json.loads(recipe.model_dump_json())


def from_tree(tree: Mapping[str, Any], where: str) -> Stage:
    """A stage from plain nested values.

    Raises:
        RecipeError: unknown keys, or values that do not fit; names the key.
    """
    _refuse_infinite(tree, where)
    try:
        return Stage.model_validate(_tuples(modern(tree)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            group, _, key = key.rpartition(".")
            raise RecipeError(f"{group or 'the recipe'} lacks {key}", where=where, do=f"give {key} a value") from None
        raise RecipeError(f"{key}: {first['msg'].lower()}, got {first['input']!r}", where=where) from None


def _refuse_infinite(value: Any, where: str, path: tuple[str, ...] = ()) -> None:
    """Also where only the family knows what an entry means."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{'.'.join(path)} is {value}", where=where, do="give a finite number")
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, child in value.items() if isinstance(value, Mapping) else ():
        _refuse_infinite(child, where, (*path, str(key)))


def _tuples(value: Any) -> Any:
    """YAML and JSON know only lists; recipes are immutable and hold tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(entry) for entry in value)
    return value


def _parse_set(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set wants key=value, got {text!r}", do="for example --set optim.lr=1e-4")
    return tuple(key.strip().split(".")), parse_yaml(value, f"--set {text}")


def _changes(given: Any, start: tuple[str, ...], source: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry that is given, with its path."""
    if start == ("validation",) and isinstance(given, list):
        # The form before API 0.2; like any list it stands for the whole.
        yield start, {}
        given = _by_name(given, source)
    if not isinstance(given, dict) or not given or (start and start[-1] == CLASSES):
        if start:
            yield start, given
        return
    for key, value in given.items():
        yield from _changes(value, (*start, str(key)), source)


def _by_name(entries: list[Any], source: str) -> dict[str, Any]:
    """Validation sets as a mapping, from a list of entries that name themselves by `source`."""
    found: dict[str, Any] = {}
    for entry in entries:
        name = entry.get("source") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in found:
            raise RecipeError(
                "each validation set needs a name of its own",
                where=source,
                do="write `validation: {NAME: {format: ..., annotations: ..., images: ...}}`",
            )
        found[name] = {key: value for key, value in entry.items() if key != "source"}
    return found
