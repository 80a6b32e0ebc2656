"""Checks of a stage's model: it builds, losses fit the batch, gradients reach what trains, an export loads again."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.conformance.compare import differences
from mmcore.conformance.subject import Subject, require
from mmcore.contract.recipe import Stage, matches_any
from mmcore.errors import some
from mmcore.runs.build import adapt, build_model

if TYPE_CHECKING:
    import torch

    from mmcore.contract.model import Model
    from mmcore.contract.values import Batch, Losses


MAX_STEPS_TO_REACH = 20
"""Optimiser steps within which every trained parameter must have had a gradient: layers behind one that starts at zero
get none in the first, and what only some batches use (a prompt drawn one time in five) waits for its turn."""


def model_builds(subject: Subject) -> str:
    """Built twice from one seed the model is the same, and none of its methods is misspelt."""
    from mmcore.contract.model import misspelt_methods

    for name, near in misspelt_methods(subject.model).items():
        require(False, f"{type(subject.model).__name__}.{name} would never be called; did you mean {near!r}?")
    again = build_model(subject.family, subject.settings)
    differing = differences(subject.model.state_dict(), again.state_dict())
    require(not differing, f"built twice from one seed, these differ: {some(differing)}")
    return f"{sum(p.numel() for p in subject.model.parameters()):,} parameters"


def losses_fit(subject: Subject) -> str:
    """Losses of every source are finite single numbers, each per something that the batch counts."""
    import torch

    from mmcore.train.objective import checked

    subject.model.train()
    names: set[str] = set()
    for name, batch in subject.batches.items():
        torch.manual_seed(0)
        losses = checked(subject.model(batch), subject.model)
        require(len(losses) > 0, "forward returns no loss")
        names.update(losses)
        for key, loss in losses.items():
            require(
                loss.total.ndim == 0, f"{name}: loss {key} has shape {tuple(loss.total.shape)}, not a single number"
            )
            require(bool(torch.isfinite(loss.total)), f"{name}: loss {key} is not finite")
            require(
                loss.per in batch.normalisers, f"{name}: loss {key} is per {loss.per!r}, which the batch does not count"
            )
    return f"{len(names)} losses"


def gradients_reach(subject: Subject) -> str:
    """Train a few steps over all sources: what the stage trains gets gradients and moves, the rest stays equal."""
    import torch

    from mmcore.train.optim import adamw, freeze, parameter_groups

    model = subject.build()
    adapt(model, subject.settings)
    freeze(model, subject.stage)
    wanted = {name for name, _ in model.named_parameters() if _is_trained(name, subject.stage)}
    given = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = _idle(model, subject.stage)
    require(given <= wanted, f"frozen by the recipe, yet trained: {some(sorted(given - wanted))}")
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimiser = adamw(parameter_groups(model, subject.stage), subject.stage)
    waiting = {name for name in given if not matches_any(idle, name)}
    reached: set[str] = set()
    model.train()
    for step in range(MAX_STEPS_TO_REACH):
        optimiser.zero_grad(set_to_none=True)
        for position, batch in enumerate(subject.draw(step).values()):
            torch.manual_seed(100 * step + position)
            _total(model(batch), batch).backward()
        stray = [n for n, p in model.named_parameters() if p.grad is not None and n not in given]
        require(not stray, f"gradients reach frozen parameters: {some(stray)}")
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimiser.step()
        if step > 0 and waiting <= reached:
            break
    lost = sorted(waiting - reached)
    false = sorted(name for name in reached if matches_any(idle, name))
    require(not false, f"declared idle, yet a gradient reaches them: {some(false)}")
    require(not lost, f"the stage trains these, but no gradient reaches them: {some(lost)}")
    moved = [n for n, p in model.named_parameters() if n not in given and not torch.equal(p, before[n])]
    require(not moved, f"frozen parameters changed in training: {some(moved)}")
    still = [n for n, p in model.named_parameters() if n in reached and torch.equal(p, before[n])]
    require(not still, f"trained parameters did not change: {some(still)}")
    frozen = len(before) - len(given)
    return f"{len(given)} tensors trained, {frozen} frozen" + (
        f", {len(given - reached)} declared idle" if given - reached else ""
    )


def export_loads_again(subject: Subject) -> str:
    """Published names hold every parameter, and loading them gives it back."""
    import torch

    from mmcore.weights.files import read_tensors, write_safetensors

    state = {name: tensor.detach() for name, tensor in subject.model.state_dict().items()}
    mapping = subject.model.published("upstream")
    with tempfile.TemporaryDirectory(prefix="mmcore-check-") as folder:
        write_safetensors(mapping.to_published(state), Path(folder), 1 << 40, {})
        published = read_tensors(Path(folder))
        again, _ = mapping.to_ours(
            published, {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        )
    lost = sorted(set(state) - set(again))
    persistent = {name for name, _ in subject.model.named_parameters()}
    require(not persistent & set(lost), f"parameters that an export loses: {some(lost)}")
    differing = differences({name: state[name] for name in again}, again)
    require(not differing, f"exported and loaded again, these differ: {some(differing)}")
    return f"{len(published)} published tensors"


def _total(losses: "Losses", batch: "Batch") -> "torch.Tensor":
    return sum(loss.total / max(1.0, batch.normalisers[loss.per]) for loss in losses.values())  # type: ignore[return-value]


def _idle(model: "Model", stage: Stage) -> tuple[str, ...]:
    """Patterns of parameters that a family trains only with other data, or keeps because published files have them."""
    return tuple(model.idle_parameters(stage))


def _is_trained(name: str, stage: Stage) -> bool:
    return stage.lora is not None or (matches_any(stage.trainable, name) and not matches_any(stage.frozen, name))
