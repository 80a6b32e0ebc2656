"""Putting one value into a recipe's tree, each key on the way checked against the recipe's own classes.

A place in the tree is one of these:

    part     a `Recipe`: its keys are its fields
    choice   one of several `Recipe`s by `kind` (`schedule`, `data.mixture`); another kind drops what it does not have
    named    name -> `Recipe` (`data.sources`): a new name is a new entry, null takes one out
    free     name -> value (`optim.multipliers`): all that is left of the path is one name, dots included; null removes
    nested   whatever a family understands (`model`, `data.transform`, `options`); the family checks it
    inside   anything within such a group, a value or a group
    value    anything else
"""

import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin  # pyright: ignore[reportDeprecated]

from mmcore.contract.entry import Recipe
from mmcore.contract.mixture import GROUPING
from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError, suggest

Tree = dict[str, Any]
CLASSES = "classes"
"""The group that is given whole, as a list or a map in which null has a meaning."""
FROM = "from"
"""Names the folder that a group is read from, beside single entries that replace what it says."""
Origins = dict[str, str]
"""Dotted key -> where its value comes from."""


class Place(NamedTuple):
    """What may stand somewhere in the tree."""

    kind: Literal["part", "choice", "named", "free", "nested", "inside", "value"]
    members: tuple[type[Recipe], ...] = ()
    """The part itself, the parts to choose from, or the part that names stand for."""
    optional: bool = False
    """Whether null may stand instead."""

    def fields(self) -> list[str]:
        """The keys that may follow."""
        return list(dict.fromkeys(key for member in self.members for key in member.model_fields))

    def below(self, key: str) -> "Place":
        """The place of one of its keys."""
        if self.kind == "named":
            return Place("part", self.members, optional=True)
        for member in self.members:
            if key in member.model_fields:
                return place_of(member.model_fields[key].annotation)
        return Place("inside") if self.kind in ("nested", "inside") else Place("value")


def place_of(annotation: Any) -> Place:
    """What the annotation of a recipe's field admits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):  # pyright: ignore[reportDeprecated]
        parts = tuple(one for one in arguments if _is_part(one))
        if len(parts) > 1:
            return Place("choice", parts)
        return Place("part", parts, optional=type(None) in arguments) if parts else Place("value")
    if origin is dict:
        values = arguments[1]
        if _is_part(values):
            return Place("named", (values,))
        return Place("nested") if values is Any else Place("free")
    return Place("part", (annotation,)) if _is_part(annotation) else Place("value")


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Recipe)


def assign(tree: Tree, path: tuple[str, ...], value: Any, source: str, origins: Origins) -> None:
    """Put a value into the tree of a stage.

    Args:
        tree: plain values of a whole stage; changed in place.
        path: keys from the stage on.
        value: plain.
        source: who says so, for messages and origins.
        origins: gets an entry for the path.

    Raises:
        RecipeError: a key that does not exist, with the nearest one, or a key below a value.
    """
    branch, place = tree, Place("part", (Stage,))
    for depth, key in enumerate(path):
        if place.kind == "free":
            _put(branch, ".".join(path[depth:]), value, removes=True)
            break
        _check_key(place, path[:depth], key, source)
        here = place
        place = place.below(key)
        if depth == len(path) - 1:
            if value is None and place.kind == "named":
                value = {}  # null takes one entry out, and here all of them
            _check_group(place, path, value, source)
            if not (value == {} and place.kind in ("part", "choice") and branch.get(key) is not None):
                _put(branch, key, value, removes=here.kind == "named")
            break
        if place.kind == "value":
            raise RecipeError(f"{'.'.join(path[: depth + 1])} is a value, not a group of keys", where=source)
        if not isinstance(branch.get(key), dict):
            # A folder that stands for a group stays beside single entries of it (`mmcore.runs.bases`).
            branch[key] = {FROM: branch[key]} if place.kind == "inside" and isinstance(branch.get(key), str) else {}
        branch = branch[key]
    origins[".".join(path)] = source
    _keep_consistent(tree, path, value, source)


def _check_group(place: Place, path: tuple[str, ...], value: Any, source: str) -> None:
    if place.kind in ("value", "inside") or isinstance(value, dict) or (value is None and place.optional):
        return
    if path[-1] == CLASSES and isinstance(value, list):  # these and no others
        return
    raise RecipeError(
        f"{'.'.join(path)} is a group of keys, not {value!r}",
        where=source,
        known=place.fields() or None,
        do=f"give its keys, as {'.'.join(path)}.KEY",
    )


def _put(branch: Tree, key: str, value: Any, *, removes: bool) -> None:
    if value is None and removes:
        branch.pop(key, None)
    else:
        branch[key] = value


def _check_key(place: Place, parents: tuple[str, ...], key: str, source: str) -> None:
    if place.kind not in ("part", "choice") or key in place.fields():
        return
    known = place.fields()
    raise RecipeError(
        f"no recipe key {key!r}" + (f" in {'.'.join(parents)}" if parents else ""),
        where=source,
        known=known,
        do=suggest(key, known, "see `mmcore plan` for every key"),
    )


_SHARES = {
    "warmup_steps": "warmup_ratio",
    "milestones": "milestone_ratios",
    "warmup_ratio": "warmup_steps",
    "milestone_ratios": "milestones",
}
"""Two ways to say one thing, of which the one that is given last holds."""


def _keep_consistent(tree: Tree, path: tuple[str, ...], value: Any, source: str) -> None:
    """Drop what a changed choice makes meaningless: the other length, the numbers and groups of the other kind."""
    if path == ("steps",) and value is not None:
        tree["epochs"] = None
    elif path == ("epochs",) and value is not None:
        tree["steps"] = None
    elif path[0] == "schedule" and path[-1] in _SHARES and value:
        tree["schedule"].pop(_SHARES[path[-1]], None)
    elif path[-1] == "kind":
        place, branch = Place("part", (Stage,)), tree
        for key in path[:-1]:
            place, branch = place.below(key), branch[key]
        if place.kind == "choice":
            kept = _member(place, value, path, source).model_fields
            for key in [key for key in branch if key not in kept]:
                del branch[key]
        if path == ("data", "mixture", "kind") and value not in GROUPING:
            for entry in tree["data"]["sources"].values():
                entry["group"] = None


def _member(place: Place, kind: Any, path: tuple[str, ...], source: str) -> type[Recipe]:
    kinds: Mapping[Any, type[Recipe]] = {member.model_fields["kind"].default: member for member in place.members}
    if kind not in kinds:
        raise RecipeError(
            f"{'.'.join(path)} {kind!r} does not exist",
            where=source,
            known=kinds,
            do=suggest(str(kind), list(kinds), "choose one of these"),
        )
    return kinds[kind]
