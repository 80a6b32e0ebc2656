"""The learning rate over time: a pure function of the step, so there is no scheduler state to save."""

import math
from bisect import bisect_right

from mmcore.contract.recipe import Stage
from mmcore.contract.schedule import Constant, Cosine, LinearDecay, MultiStep, Schedule


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
    return schedule.warmup_steps or math.ceil(schedule.warmup_ratio * total_steps)


def milestones(schedule: MultiStep, total_steps: int) -> list[int]:
    """Optimiser steps at which the rate drops, in order."""
    shares = (math.ceil(share * total_steps) for share in schedule.milestone_ratios)
    return sorted([*schedule.milestones, *shares])


def settled(stage: Stage, total_steps: int) -> Stage:
    """The stage with its intervals in steps, those that are shares of all steps included."""
    given = {name: getattr(stage, name) for name in ("eval_every", "checkpoint_every", "keep_every")}
    shares = {name: every for name, every in given.items() if isinstance(every, float)}
    return stage.replace(**{name: max(1, round(share * total_steps)) for name, share in shares.items()})


def beyond_the_end(stage: Stage, total_steps: int) -> list[str]:
    """What a stage asks for after its last step, as sentences: milestones, warm-up, intervals."""
    schedule, told = stage.schedule, []
    late = (
        [step for step in milestones(schedule, total_steps) if step >= total_steps]
        if isinstance(schedule, MultiStep)
        else []
    )
    if late:
        told.append(
            f"milestones {', '.join(map(str, late))} lie beyond the last of {total_steps} steps, so the rate does not"
            " drop there; schedule.milestone_ratios gives them as shares of all steps"
        )
    if (warmup := warmup_steps(schedule, total_steps)) >= total_steps:
        told.append(
            f"the warm-up takes {warmup} steps of {total_steps}, so the whole rate is never reached;"
            " schedule.warmup_ratio gives it as a share of all steps"
        )
    whole = settled(stage, total_steps)
    for name, without in (("eval_every", "evaluated"), ("checkpoint_every", "saved")):
        every = getattr(whole, name) if stage.validation or name != "eval_every" else None
        if every is not None and every > total_steps and every != type(stage).model_fields[name].default:
            told.append(f"{name} {every} is more than all {total_steps} steps: {without} at the end only")
    return told


def _main(schedule: Schedule, step: int, warmup: int, total_steps: int) -> float:
    if isinstance(schedule, MultiStep):
        return schedule.gamma ** bisect_right(milestones(schedule, total_steps), step)
    if isinstance(schedule, Constant):
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if isinstance(schedule, Cosine):
        shape = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        assert isinstance(schedule, LinearDecay)
        shape = 1.0 - progress
    return schedule.final_factor + (1.0 - schedule.final_factor) * shape
