"""Rates over parameters and over time, against the published numbers."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmcore.contract.mixture import WholeEpochs
from mmcore.contract.recipe import AdamW, Constant, Cosine, Data, LinearDecay, MultiStep, Source, Stage, Validation
from mmcore.errors import RecipeError
from mmcore.train.optim import adamw, freeze, parameter_groups
from mmcore.train.schedule import beyond_the_end, factor, settled
from torch import nn


def model() -> nn.Module:
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)),
            "text_encoder": nn.Linear(2, 2),
            "head": nn.Linear(2, 2),
        }
    )


def test_equal_rates_share_a_group_and_multipliers_multiply(toy) -> None:
    optim = AdamW(lr=1e-3, weight_decay=0.1, multipliers={"backbone": 0.1, "backbone.1": 0.5}, no_decay=("*.bias",))
    groups = parameter_groups(model(), toy.toy_stage(optim=optim, frozen=()))
    found = {(group["multiplier"], group["weight_decay"]): group["names"] for group in groups}
    assert found == {
        (0.1, 0.1): ["backbone.0.weight"],
        (0.1, 0.0): ["backbone.0.bias"],
        (0.05, 0.1): ["backbone.1.weight"],
        (0.05, 0.0): ["backbone.1.bias"],
        (1.0, 0.1): ["text_encoder.weight", "head.weight"],
        (1.0, 0.0): ["text_encoder.bias", "head.bias"],
    }
    assert [group["lr"] for group in groups] == [1e-3 * group["multiplier"] for group in groups]


def test_frozen_parameters_are_in_no_group_and_stay_equal(toy, tmp_path: Path) -> None:
    setup = toy.toy_setup(tmp_path)
    teacher = setup.model.teacher.weight.clone()
    toy.train(setup)
    assert torch.equal(setup.model.teacher.weight, teacher)
    assert not setup.model.teacher.weight.requires_grad


def test_what_the_family_froze_is_trained_only_by_name(toy) -> None:
    net = model()
    net["head"].requires_grad_(False)
    freeze(net, toy.toy_stage(frozen=("text_encoder",)))
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        "backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias",
    }  # fmt: skip
    freeze(net, toy.toy_stage(trainable=("head",), frozen=()))
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("key", ["trainable", "frozen", "multipliers", "no_decay"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(toy, key: str) -> None:
    patterns = ("backbon.0",)
    stage = toy.toy_stage(frozen=())
    if key in ("trainable", "frozen"):
        stage = stage.replace(**{key: patterns})
    else:
        value = dict.fromkeys(patterns, 0.1) if key == "multipliers" else patterns
        stage = stage.replace(optim=stage.optim.replace(**{"multipliers": {}, key: value}))
    prepare = freeze if key in ("trainable", "frozen") else parameter_groups
    with pytest.raises(RecipeError, match="matches no parameter") as caught:
        prepare(model(), stage)
    assert "'backbone.0'" in str(caught.value)


def test_tied_weights_are_trained_once_and_frozen_by_either_name(toy) -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False), "c": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    stage = toy.toy_stage(frozen=(), optim=AdamW(lr=1.0, multipliers={"b": 0.5}))
    (tied, rest) = parameter_groups(net, stage)
    assert (tied["names"], tied["lr"]) == (["a.weight"], 0.5)
    freeze(net, stage.replace(frozen=("b",)))
    assert not net["a"].weight.requires_grad
    assert rest["names"] == ["c.weight", "c.bias"]


def test_nothing_left_to_train_is_an_error(toy) -> None:
    with pytest.raises(RecipeError, match="no parameter is left"):
        freeze(model(), toy.toy_stage(frozen=("*",)))


def test_one_step_equals_one_group_per_parameter(toy) -> None:
    """The published code has one group per parameter; ours are merged, the numbers are not touched."""
    optim = AdamW(lr=1e-2, weight_decay=0.05, multipliers={"backbone": 0.1})
    ours, theirs = model(), model()
    theirs.load_state_dict(ours.state_dict())
    optimizer = adamw(parameter_groups(ours, toy.toy_stage(optim=optim, frozen=())), toy.toy_stage(optim=optim))
    plain = torch.optim.AdamW(
        [{"params": [p], "lr": 1e-3 if n.startswith("backbone") else 1e-2, "weight_decay": 0.05}
         for n, p in theirs.named_parameters()], foreach=False,
    )  # fmt: skip
    for step in range(3):
        for net, optimiser in ((ours, optimizer), (theirs, plain)):
            generator = torch.Generator().manual_seed(step)
            for parameter in net.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimiser.step()
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)


def test_the_published_schedules_come_out_to_the_last_digit(shared: Path) -> None:
    case = json.loads((shared / "goldens/glee/optimizer/case.json").read_text())
    warmups = {"lite_stage1": (1000, 1e-4), "lite_stage2": (100, 0.01), "pro_stage2": (1000, 0.01)}
    for name, recipe in case["recipes"].items():
        published = recipe["schedule"]
        steps, warmup = warmups[name]
        ours = MultiStep(milestones=tuple(published["steps"]), warmup_steps=steps, warmup_factor=warmup)
        for iteration, multiplier in published["multiplier"].items():
            assert factor(ours, int(iteration), published["max_iter"]) == pytest.approx(multiplier, rel=1e-9)


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_and_linear_are_those_of_transformers(warmup: int) -> None:
    transformers = pytest.importorskip("transformers")
    makers = {
        Cosine(warmup_steps=warmup): transformers.get_cosine_schedule_with_warmup,
        LinearDecay(warmup_steps=warmup): transformers.get_linear_schedule_with_warmup,
    }
    for ours, maker in makers.items():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = maker(optimizer, warmup, 50)
        for step in range(50):
            assert factor(ours, step, 50) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
            optimizer.step()
            theirs.step()


def test_a_warm_up_ratio_is_rounded_up() -> None:
    schedule = Cosine(warmup_ratio=0.03)
    assert factor(schedule, 3, 101) == pytest.approx(3 / math.ceil(3.03))
    assert factor(Constant(warmup_steps=4, warmup_factor=0.5), 2, 100) == 0.75
    assert factor(Cosine(final_factor=0.1), 50, 50) == pytest.approx(0.1)


# ---- shares of all steps ----


def toy_stage(**changes) -> Stage:
    stage = Stage(
        number=1, name="toy", title="toy", origin="test", steps=12, global_batch=8, micro_batch=2,
        data=Data(sources={"a": Source(weight=1.0, format="toy")}, mixture=WholeEpochs()), optim=AdamW(lr=0.01),
        schedule=MultiStep(milestones=(8,), warmup_steps=3, warmup_factor=0.1), checkpoint_every=4,
        validation={"v": Validation()},
    )  # fmt: skip
    return stage.replace(**changes)


@pytest.mark.parametrize("total", [10, 333, 2000])
def test_shares_move_along_with_the_steps(total: int) -> None:
    shares = MultiStep(milestone_ratios=(0.75, 0.95), warmup_ratio=0.1, warmup_factor=0.1)
    steps = MultiStep(
        milestones=(math.ceil(0.75 * total), math.ceil(0.95 * total)),
        warmup_steps=math.ceil(0.1 * total),
        warmup_factor=0.1,
    )
    for step in range(total):
        assert factor(shares, step, total) == factor(steps, step, total)


def test_intervals_may_be_shares() -> None:
    stage = toy_stage(eval_every=0.1, checkpoint_every=0.25, keep_every=3)
    whole = settled(stage, 200)
    assert (whole.eval_every, whole.checkpoint_every, whole.keep_every) == (20, 50, 3)
    assert settled(stage, 3).eval_every == 1
    assert settled(whole, 7) == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": MultiStep(milestones=(8, 12, 30))}, "milestones 12, 30 lie beyond the last of 12 steps"),
        ({"schedule": Cosine(warmup_steps=12)}, "the warm-up takes 12 steps of 12"),
        ({"eval_every": 13}, "eval_every 13 is more than all 12 steps: evaluated at the end only"),
        ({"checkpoint_every": 13}, "checkpoint_every 13 is more than all 12 steps: saved at the end only"),
    ],
)
def test_what_lies_beyond_the_end_is_told(changes: dict, words: str) -> None:
    (told,) = beyond_the_end(toy_stage(**changes), 12)
    assert words in told


def test_nothing_is_told_of_a_stage_that_fits() -> None:
    assert beyond_the_end(toy_stage(), 12) == []
    assert beyond_the_end(toy_stage(checkpoint_every=1000), 12) == []


@pytest.mark.parametrize("kind", [MultiStep, Cosine, LinearDecay, Constant])
def test_steps_and_shares_exclude_each_other(kind: type) -> None:
    with pytest.raises(RecipeError, match="warmup_steps or warmup_ratio, not both"):
        kind(warmup_steps=5, warmup_ratio=0.1)
    with pytest.raises(RecipeError, match="milestones or milestone_ratios, not both"):
        MultiStep(milestones=(5,), milestone_ratios=(0.1,))
