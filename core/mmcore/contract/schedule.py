"""How the learning rate changes over a stage: one choice of several; its times in steps, or as shares of all steps.

Published recipes give steps. Shares move along when `steps` is changed. What a schedule comes to at a step is in
`mmcore.train.schedule`. Nothing here imports torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmcore.contract.entry import Recipe
from mmcore.errors import RecipeError

Share = Annotated[float, Field(gt=0, lt=1)]
Every = Annotated[int, Field(gt=0)] | Share
"""Optimiser steps as a whole number, or their share of all steps as a number below 1."""


class _WarmedUp(Recipe):
    """A linear warm-up from `warmup_factor` comes before the schedule itself."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for steps, shares in (("warmup_steps", "warmup_ratio"), ("milestones", "milestone_ratios")):
            if getattr(self, steps, None) and getattr(self, shares, None):
                raise RecipeError(f"give {steps} or {shares}, not both", where="schedule")
        return self


class MultiStep(_WarmedUp):
    """Multiply the rate by `gamma` at each milestone, after a linear warm-up from `warmup_factor`."""

    kind: Literal["multistep"] = "multistep"
    milestones: tuple[int, ...] = ()
    """Optimiser steps."""
    milestone_ratios: tuple[Share, ...] = ()
    """The same as shares of all steps (rounded up), instead of `milestones`."""
    gamma: float = 0.1
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Warm-up as a share of all steps (rounded up), instead of `warmup_steps`."""
    warmup_factor: float = Field(default=1.0, ge=0)
    """Factor on the rate at step 0."""


class Cosine(_WarmedUp):
    """Half a cosine from the base rate to `final_factor` of it, after a linear warm-up from `warmup_factor`."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    warmup_factor: float = Field(default=0.0, ge=0)
    final_factor: float = Field(default=0.0, ge=0)


class LinearDecay(_WarmedUp):
    """A straight line from the base rate to `final_factor` of it, after a linear warm-up from `warmup_factor`."""

    kind: Literal["linear"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    warmup_factor: float = Field(default=0.0, ge=0)
    final_factor: float = Field(default=0.0, ge=0)


class Constant(_WarmedUp):
    """The base rate throughout, after a linear warm-up from `warmup_factor`."""

    kind: Literal["constant"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    warmup_factor: float = Field(default=1.0, ge=0)


Schedule = MultiStep | Cosine | LinearDecay | Constant
