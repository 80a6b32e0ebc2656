"""The learning rate over time: a pure function of the step, so there is no scheduler state to save."""

import math
from bisect import bisect_right

from mmcore.contract.recipe import Constant, Cosine, LinearDecay, MultiStep, Schedule


def factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """What every learning rate is multiplied with in the update that follows `step` finished ones.

    Args:
        schedule: the recipe's schedule.
        step: optimiser steps already done, from 0.
        total_steps: optimiser steps of the whole stage; cosine and linear decay end there.

    Returns:
        A factor of 1 means the recipe's base rate.
    """
    warmup = warmup_steps(schedule, total_steps)
    if step < warmup:
        # detectron2's WarmupParamScheduler: a line from the warm-up factor to where the main schedule takes over.
        # Also Hugging Face's, with a warm-up factor of 0.
        progress = step / warmup
        return schedule.warmup_factor * (1 - progress) + _main(schedule, warmup, warmup, total_steps) * progress
    return _main(schedule, step, warmup, total_steps)


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Length of the warm-up in optimiser steps."""
    ratio = getattr(schedule, "warmup_ratio", 0.0)
    return schedule.warmup_steps or math.ceil(ratio * total_steps)


def _main(schedule: Schedule, step: int, warmup: int, total_steps: int) -> float:
    if isinstance(schedule, MultiStep):
        return schedule.gamma ** bisect_right(sorted(schedule.milestones), step)
    if isinstance(schedule, Constant):
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if isinstance(schedule, Cosine):
        shape = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        assert isinstance(schedule, LinearDecay)
        shape = 1.0 - progress
    return schedule.final_factor + (1.0 - schedule.final_factor) * shape
