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

    An entry that a run does not have is None; of a group of entries that it does not have, such as a validation set,
    the whole group is told in one.

    Raises:
        CheckpointError: one of them is not a run folder.
    """
    trees = [to_tree(read_settings(run)) for run in runs]
    return {key: each for key, each in _differing(trees, "") if not key.startswith(_NEVER_TOLD)}


def _differing(trees: Sequence[Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    if all(isinstance(tree, Mapping) and tree for tree in trees):
        for key in dict.fromkeys(key for tree in trees for key in tree):
            yield from _differing([tree.get(key) for tree in trees], f"{path}.{key}" if path else key)
    elif any(tree != trees[0] for tree in trees):
        yield path, list(trees)
