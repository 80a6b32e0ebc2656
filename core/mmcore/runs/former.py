"""Recipes as API 0.1 wrote them, in run folders and exports: read in today's words."""

from collections.abc import Mapping
from typing import Any

_FLAGS = {"one_source_per_batch": True, "replacement": True, "group_by_aspect": False, "group_by_length": None}
"""Of `data`, with the values they had when they were not given; `data.mixture` says all of it now."""


def modern(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a stage with the entries of API 0.1 in the form they have now; others are left alone."""
    result = dict(tree)
    data = result.get("data")
    if isinstance(data, Mapping) and any(flag in data for flag in _FLAGS):
        flags = {flag: data.get(flag, default) for flag, default in _FLAGS.items()}
        result["data"] = {key: value for key, value in data.items() if key not in _FLAGS}
        result["data"]["mixture"] = _mixture(**flags)
    sets = result.get("validation")
    if isinstance(sets, list | tuple) and all(isinstance(one, Mapping) and "source" in one for one in sets):
        result["validation"] = {
            one["source"]: {key: value for key, value in one.items() if key != "source"} for one in sets
        }
    return result


def _mixture(
    *, one_source_per_batch: bool, replacement: bool, group_by_aspect: bool, group_by_length: str | None
) -> dict[str, Any]:
    if group_by_length is not None:
        return {"kind": "length", "by_modality": group_by_length == "modality"}
    if not replacement:
        source_per = "batch" if one_source_per_batch else "sample"
        return {"kind": "epochs", "source_per": source_per, "by_aspect": group_by_aspect}
    kind = "source_per_batch" if one_source_per_batch else "source_per_sample"
    return {"kind": kind, "by_aspect": group_by_aspect}
