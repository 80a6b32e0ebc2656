"""The categories of a file in COCO's form: names by id, the root that exports add, and LV-VIS's partition."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmcore.data.formats.plain_values import clean_category
from mmcore.errors import DataError


def category_names(categories: Sequence[Any], path: Path) -> dict[int, str]:
    """Category id -> name, in order of the ids.

    Raises:
        DataError: an id or a name is missing, or an id stands twice.
    """
    names: dict[int, str] = {}
    for entry in map(clean_category, categories):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or "name" not in entry:
            raise DataError(
                f"category {entry!r:.60} has no whole number id or no name",
                where=f"{path}, categories",
                do='write categories as a list of {"id": 1, "name": "cup"}',
            )
        if entry["id"] in names:
            raise DataError(
                f"category id {entry['id']} stands twice: {names[entry['id']]!r} and {entry['name']!r}",
                where=f"{path}, categories",
                do="give every category an id of its own",
            )
        names[entry["id"]] = str(entry["name"])
    return dict(sorted(names.items()))


def unannotated_root(categories: Sequence[Any], used: Iterable[Any]) -> int | None:
    """The id of the category that an export put above all others ("objects", the project's name); None without one.

    Roboflow writes it: every other category has it as its supercategory, it has none, and no object is of it.

    Args:
        categories: as the file has them.
        used: category ids of the annotations.
    """
    entries = [one for one in map(clean_category, categories) if isinstance(one, dict)]
    ids = {str(one) for one in used}
    for one in entries:
        others = [other.get("supercategory") for other in entries if other is not one]
        alone = one.get("supercategory") in (None, "", "none") and str(one.get("id")) not in ids
        if alone and others and set(map(str, others)) == {str(one.get("name"))}:
            return int(one["id"])
    return None


def partitions(categories: Sequence[Any]) -> dict[int, int]:
    """Category id -> the part of LV-VIS's vocabulary that it belongs to, of those that say so."""
    entries = [one for one in map(clean_category, categories) if isinstance(one, dict)]
    return {one["id"]: one["partition"] for one in entries if type(one.get("partition")) is int and "id" in one}
