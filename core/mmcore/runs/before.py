"""What the starting weights could do: validation sets with `before` are evaluated once, ahead of the first step.

The numbers lie in `before.json` of the run folder; `mmcore eval` prints them and the difference beside its own.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.base.files import replace_text
from mmcore.base.jsonfile import read_json
from mmcore.contract.recipe import Stage

if TYPE_CHECKING:
    from torch import nn

FILE_NAME = "before.json"

Measure = Callable[["nn.Module", str], Mapping[str, float]]
"""(model, validation set) -> metrics; empty on all processes but the first."""


def measure_before(
    model: "nn.Module", stage: Stage, known: Mapping[str, object], measure: Measure, run_dir: Path
) -> None:
    """Evaluate the starting weights on every set of the recipe that asks for it.

    Args:
        model: with its starting weights.
        stage: the recipe.
        known: the validation sets that can be evaluated.
        measure: evaluates one.
        run_dir: gets the numbers.
    """
    wanted = [name for name, entry in stage.validation.items() if entry.before and name in known]
    found = {name: dict(measure(model, name)) for name in wanted}
    if any(found.values()):
        replace_text(run_dir / FILE_NAME, json.dumps(found, indent=1) + "\n")


def read_before(run_dir: Path | None) -> dict[str, dict[str, float]]:
    """Validation set -> metrics of the starting weights; empty where none were taken."""
    path = run_dir / FILE_NAME if run_dir else None
    if path is None:
        return {}
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return {name: metrics for name, metrics in found.items() if isinstance(metrics, dict)}
