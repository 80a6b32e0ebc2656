"""How the sources of a stage are mixed: one choice of several, each with its own numbers.

What a kind draws is in `mmcore.data.order`, one order a file. Nothing here imports torch.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from mmcore.contract.entry import Recipe
from mmcore.errors import RecipeError, suggest


class SourcePerBatch(Recipe):
    """Every micro-batch comes from one source, drawn by weight; records are drawn independently (GLEE)."""

    kind: Literal["source_per_batch"] = "source_per_batch"
    by_aspect: bool = False
    """Landscape and portrait images never share a micro-batch, which saves padding."""


class SourcePerSample(Recipe):
    """Every sample comes from a source of its own, drawn by weight; records are drawn independently."""

    kind: Literal["source_per_sample"] = "source_per_sample"
    by_aspect: bool = False


class WholeEpochs(Recipe):
    """Each source is gone through before any of its records repeats; weights say how fast."""

    kind: Literal["epochs"] = "epochs"
    source_per: Literal["batch", "sample"] = "batch"
    """What comes from one source: a micro-batch, or each sample for itself."""
    by_aspect: bool = False


class ByLength(Recipe):
    """Records of like length share a global batch, each record once per epoch; all sources have one weight (LLaVA)."""

    kind: Literal["length"] = "length"
    by_modality: bool = False
    """Records with and without an image keep apart."""


class ByTask(Recipe):
    """Records of one task and like length share a global batch; `group` of a source is its task (Griffon).

    Records without an image are a task of their own. The last global batch of each task is left out of the epoch.
    """

    kind: Literal["task_length"] = "task_length"


class ByKind(Recipe):
    """Kind, then source, then record: `group` of a source is its kind, its weight the rate within the kind (GLaMM)."""

    kind: Literal["kind"] = "kind"
    weights: dict[str, float]
    """Kind -> share of the optimiser steps, relative to the other kinds that have a source."""
    kinds_per_step: int = Field(default=1, gt=0)
    """How many kinds an optimiser step draws, its micro-batches taking turns. GLaMM's first release drew one on each
    process, later ones draw one for all."""


GROUPING = ("task_length", "kind")
"""The kinds that go by the `group` of a source."""

BALANCED = ("source_per_batch", "source_per_sample", "epochs")
"""The kinds whose micro-batches may change places (`data.balance`); the others put like ones into a step themselves."""

Mixture = SourcePerBatch | SourcePerSample | WholeEpochs | ByLength | ByTask | ByKind


def check_kinds(mixture: ByKind, groups: Mapping[str, str]) -> None:
    """Every source is of a kind that has a weight, and every weight of a kind that has a source.

    Raises:
        RecipeError: names the kind, with the nearest one.
    """
    known = list(mixture.weights)
    for name, group in groups.items():
        if group not in known:
            raise RecipeError(
                f"source {name!r} is of the kind {group!r}, which has no weight",
                where=f"data.sources.{name}.group",
                known=known,
                do=suggest(group, known, "choose one of these, or give it one in data.mixture.weights"),
            )
    for kind in known:
        if kind not in groups.values():
            raise RecipeError(
                f"no source is of the kind {kind!r}",
                where=f"data.mixture.weights.{kind}",
                known=sorted(set(groups.values())),
                do=suggest(kind, set(groups.values()), "leave it out"),
            )
