"""Golden optimisers: rates, decay and schedule of whole recipes, and a few real steps through the training engine."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmcore import AdamW, MultiStep, Stage
from mmcore.parity import Case, Check, NotRun, Report
from mmcore.train.engine import PlainEngine
from mmcore.train.objective import divisors
from mmcore.train.optim import freeze, parameter_groups
from mmcore.train.schedule import factor
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import VARIANTS
from mmcore_glee.model import Glee
from mmcore_glee.parity.common import StoredDraws, close_all, model_of, training_batch
from mmcore_glee.parity.training import matching, step
from mmcore_glee.recipes import stages

SOLVER = frozenset(
    {"MAX_ITER", "BASE_LR", "STEPS", "GAMMA", "WARMUP_ITERS", "WARMUP_FACTOR", "WEIGHT_DECAY", "BACKBONE_MULTIPLIER",
     "TEXTENCODER_MULTIPLIER", "CLIP_GRADIENTS.CLIP_VALUE", "IMS_PER_BATCH", "CHECKPOINT_PERIOD"}
)  # fmt: skip
"""Keys of the published solver that are read here, and two that say nothing of one batch's steps."""
EXACT = 1e-9
"""Relative difference that counts as equal."""


def check_recipes(case: Case, report: Report) -> None:
    """Learning rate and weight decay of every parameter, Adam's constants, and the schedule at stored iterations."""
    for recipe, expected in case.data["recipes"].items():
        variant, number = re.fullmatch(r"(\w+)_stage(\d)", recipe).groups()  # type: ignore[union-attr]
        if variant not in VARIANTS:
            print(f"  not run: {recipe}, whose variant is not built yet")
            continue
        stage = next(stage for stage in stages(variant) if stage.number == int(number))
        _check_recipe(report, recipe, stage, variant, expected)
    if not report.lines:
        raise NotRun("none of its variants is built yet")


def _check_recipe(report: Report, recipe: str, stage: Stage, variant: str, expected: Mapping[str, Any]) -> None:
    groups = expected["groups"]
    config = VARIANTS[variant].replace(**stage.model)
    # The case's models have fewer layers; rates depend on names only, so shapes stay the full ones.
    depth = {
        "text_layers": _depth(groups, r"text_encoder\.text_model\.encoder\.layers\.(\d+)") or config.text_layers,
        "encoder_layers": _depth(groups, r"pixel_decoder\.transformer\.encoder\.layers\.(\d+)"),
        "decoder_layers": _depth(groups, r"predictor\.decoder\.layers\.(\d+)"),
        "eva_depth": _depth(groups, r"backbone\.net\.blocks\.(\d+)") or config.eva_depth,
    }
    stage = _without_missing_blocks(stage, depth["eva_depth"])
    with torch.device("meta"):
        model = Glee(config.replace(**depth))
    freeze(model, stage)
    rates: dict[str, Tensor] = {}
    for group in parameter_groups(model, stage):
        rates |= {
            name: torch.tensor([group["lr"], group["weight_decay"]], dtype=torch.float64) for name in group["names"]
        }
    names = model.published()
    published = {name: v for name, v in names.to_published(rates).items() if name not in names.constants}
    # A shared parameter has several published names; the published optimiser lists it once, under one of them.
    by_tensor: dict[int, list[str]] = {}
    for name, value in published.items():
        by_tensor.setdefault(id(value), []).append(name)
    chosen = [next((name for name in same if name in groups), same[0]) for same in by_tensor.values()]
    unique = {name: published[name] for name in chosen}
    report.equal(f"{recipe}.parameters", sorted(unique), sorted(groups))
    for name, pair in groups.items():
        report.close(f"{recipe}.{name}", unique.get(name, torch.zeros(0)), pair, relative=EXACT)
    report.equal(f"{recipe}.betas", list(stage.optim.betas), expected["betas"])
    report.equal(f"{recipe}.eps", stage.optim.eps, expected["eps"])
    schedule = expected["schedule"]
    assert isinstance(stage.schedule, MultiStep)
    report.equal(f"{recipe}.max_iter", stage.steps, schedule["max_iter"])
    report.equal(f"{recipe}.steps", list(stage.schedule.milestones), schedule["steps"])
    for iteration, multiplier in schedule["multiplier"].items():
        value = factor(stage.schedule, int(iteration), schedule["max_iter"])
        report.close(f"{recipe}.multiplier.{iteration}", value, multiplier, relative=EXACT)


def _without_missing_blocks(stage: Stage, depth: int) -> Stage:
    """The recipe without rates for blocks that the case's model lacks."""
    block = re.compile(r"backbone\.net\.blocks\.(\d+)")
    kept = {
        pattern: rate
        for pattern, rate in stage.optim.multipliers.items()
        if not (found := block.fullmatch(pattern)) or int(found[1]) < depth
    }
    return stage.replace(optim=stage.optim.replace(multipliers=kept))


def check_steps(case: Case, report: Report) -> None:
    """Several optimiser steps on one batch: totals, losses, matching, gradient norms, rates, and what they lead to."""
    model, batch, stage = model_of(case), training_batch(case), _stage_of(case)
    freeze(model, stage)
    engine = PlainEngine(model, stage, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for i, expected in enumerate(case.data["steps"]):
        _one_step(case, report, engine, batch, i, expected, factor(stage.schedule, i, stage.steps or 0))
    trained = {name: p.detach() for name, p in model.named_parameters() if name in before}
    after = model.published().to_published(trained)
    tolerance = case.data["tolerance"]
    norms = {name: value.norm() for name, value in after.items()}
    close_all(report, norms, case.data["param_norms_after"], relative=tolerance["param_norm_relative"])
    for name in case.outputs():
        if name.startswith("param_after."):
            value = after[name.removeprefix("param_after.")]
            report.close(name, value, case.tensors[name], absolute=tolerance["param_absolute"])


def _one_step(
    case: Case, report: Report, engine: PlainEngine, batch: GleeBatch, i: int, expected: Mapping[str, Any], rate: float
) -> None:
    recorded: dict[str, Any] = {}
    draws = StoredDraws(case.tensors, f"step{i}.")

    model = engine.model
    assert isinstance(model, Glee)

    def forward(given: GleeBatch, model: Glee = model) -> Any:
        recorded["step"] = step(model, given, draws)
        return recorded["step"].losses

    model.forward = forward  # type: ignore[method-assign]
    total = engine.forward(batch, divisors([[batch.normalisers]], "micro_batch")[0])
    engine.backward(total)
    value, norm = engine.health(total.detach())
    engine.step(rate)
    limits = {"relative": case.data["tolerance"]["total_relative"]}
    report.close(f"step{i}.total", value, expected["total"], **limits)
    report.close(f"step{i}.grad_norm_before_clip", norm, expected["grad_norm_before_clip"], relative=1e-2)
    losses = engine.objective.parts
    report.equal(f"step{i}.names of losses", sorted(losses), sorted(expected["losses"]))
    for name, loss in expected["losses"].items():
        report.close(f"step{i}.{name}", losses[name], loss, **limits)
    report.equal(f"step{i}.matching", matching(recorded["step"], batch), expected["matching"])
    rates = sorted(set(engine.learning_rates()))
    report.close(f"step{i}.learning_rates", rates, expected["learning_rates"], relative=EXACT)


def _stage_of(case: Case) -> Stage:
    """The published recipe with the case's solver settings; batch size one micro-batch, float32."""
    given = case.data["config"]
    number = int(re.search(r"Stage(\d)", given["base_config"]).group(1))  # type: ignore[union-attr]
    stage = next(stage for stage in stages("lite") if stage.number == number)
    solver = {key.removeprefix("SOLVER."): value for key, value in given["overrides"].items() if "SOLVER." in key}
    if unknown := set(solver) - SOLVER:
        raise NotRun(f"the case changes SOLVER.{', SOLVER.'.join(sorted(unknown))}, which is not read here")
    schedule, optim = stage.schedule, stage.optim
    assert isinstance(schedule, MultiStep)
    assert isinstance(optim, AdamW)
    rates = dict(optim.multipliers)
    for part in ("BACKBONE", "TEXTENCODER"):
        pattern = {"BACKBONE": "backbone", "TEXTENCODER": "text_encoder"}[part]
        if f"{part}_MULTIPLIER" in solver:
            rates[pattern] = solver[f"{part}_MULTIPLIER"]
    return stage.replace(
        steps=solver.get("MAX_ITER", stage.steps),
        precision="fp32",
        optim=optim.replace(
            lr=solver.get("BASE_LR", optim.lr),
            weight_decay=solver.get("WEIGHT_DECAY", optim.weight_decay),
            clip_grad_norm=solver.get("CLIP_GRADIENTS.CLIP_VALUE", optim.clip_grad_norm),
            multipliers=rates,
        ),
        schedule=schedule.replace(
            milestones=tuple(solver.get("STEPS", schedule.milestones)),
            gamma=solver.get("GAMMA", schedule.gamma),
            warmup_steps=solver.get("WARMUP_ITERS", schedule.warmup_steps),
            warmup_factor=solver.get("WARMUP_FACTOR", schedule.warmup_factor),
        ),
    )


def _depth(names: Iterable[str], pattern: str) -> int:
    found = [int(match.group(1)) for name in names if (match := re.search(pattern, name))]
    return max(found, default=-1) + 1


KINDS: dict[str, Check] = {"optimizer": check_recipes, "optimizer_steps": check_steps}
