"""What the settings of several runs have different."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.runs.config import to_tree
from mmcore.runs.settings import read_settings

_NEVER_TOLD = ("stage.origin", "stage.notes", "stage.title")
"""Words about the numbers, which differ along with them."""


def differences(runs: Sequence[Path]) -> dict[str, list[Any]]:
    """Entry -> its value in each run, for every entry of the settings in which they are not all equal.

    An entry that a run does not have is None.

    Raises:
        CheckpointError: one of them is not a run folder.
    """
    found = [dict(_leaves(to_tree(read_settings(run)))) for run in runs]
    keys = dict.fromkeys(key for one in found for key in one)
    values = {key: [one.get(key) for one in found] for key in keys if not key.startswith(_NEVER_TOLD)}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
