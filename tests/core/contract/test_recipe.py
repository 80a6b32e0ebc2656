"""Recipes: strict data, near names, cross-field checks, patterns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore import AdamW, Constant, Cosine, Data, LinearDecay, Lora, MultiStep, Source, Stage
from mmcore.base.yamltext import parse_yaml, to_yaml
from mmcore.contract.recipe import matches, matches_any
from mmcore.errors import RecipeError
from mmcore.runs.config import from_tree, to_tree
from pydantic import ValidationError

SOURCE = Source(weight=1.0, format="COCO instances")


def stage(**changes) -> Stage:
    fields = {
        "number": 1,
        "name": "first",
        "title": "a stage",
        "origin": "assumed",
        "steps": 100,
        "global_batch": 8,
        "micro_batch": 2,
        "data": Data(sources={"coco": SOURCE}),
        "optim": AdamW(lr=1e-4),
        "schedule": MultiStep(milestones=(60, 80)),
    }
    return Stage(**{**fields, **changes})


@pytest.mark.parametrize(
    ("part", "key", "near"),
    [
        (stage, "micro_bach", "micro_batch"),
        (lambda **k: AdamW(lr=1.0, **k), "weight_decy", "weight_decay"),
        (lambda **k: Source(weight=1.0, format="x", **k), "anotations", "annotations"),
        (lambda **k: Data(sources={}, **k), "mixtur", "mixture"),
        (lambda **k: MultiStep(milestones=(), **k), "gama", "gamma"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(part, key, near):
    with pytest.raises(RecipeError, match=f"has no key '{key}'") as caught:
        part(**{key: 1})
    assert caught.value.do == f"did you mean '{near}'?"
    assert near in (caught.value.known or "")


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": "100"},
        {"steps": 100.0},
        {"steps": True},
        {"steps": 0},
        {"name": 3},
        {"micro_batch": -2},
        {"precision": "fp8"},
        {"zero": 4},
        {"trainable": ["*"]},
        {"keep_last": 0},
    ],
)
def test_values_are_not_converted_and_stay_in_their_range(changes):
    with pytest.raises(ValidationError):
        stage(**changes)


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        stage().steps = 5


@pytest.mark.parametrize("changes", [{"steps": None}, {"epochs": 1.0}])
def test_exactly_one_of_steps_and_epochs_is_given(changes):
    with pytest.raises(RecipeError, match="exactly one of steps and epochs"):
        stage(**changes)


def test_the_global_batch_is_a_multiple_of_the_micro_batch():
    with pytest.raises(RecipeError, match="global_batch 8 is not a multiple of micro_batch 3") as caught:
        stage(micro_batch=3)
    assert caught.value.where == "stage 1 first"
    assert "--set global_batch" in (caught.value.do or "")


def test_replacing_checks_the_whole_again():
    with pytest.raises(RecipeError, match="not a multiple"):
        stage().replace(micro_batch=5)
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        stage().replace(stps=5)


def test_replacing_leaves_the_original_alone():
    original = stage()
    changed = original.replace(steps=7)
    assert (original.steps, changed.steps) == (100, 7)


SCHEDULES = st.one_of(
    st.builds(MultiStep, milestones=st.lists(st.integers(1, 10**6), max_size=3).map(tuple), warmup_steps=st.just(5)),
    st.builds(Cosine, warmup_steps=st.integers(0, 100), final_factor=st.floats(0, 1)),
    st.builds(LinearDecay, warmup_ratio=st.floats(0, 0.5)),
    st.builds(Constant),
)


@settings(max_examples=50, deadline=None)
@given(
    schedule=SCHEDULES,
    lr=st.floats(1e-12, 10, allow_nan=False),
    multipliers=st.dictionaries(st.sampled_from(["backbone", "text.*", "a.b.c", "*.bias"]), st.floats(0, 10)),
    lora=st.none() | st.builds(Lora, rank=st.integers(1, 64), alpha=st.floats(0.1, 64), targets=st.just(("q", "v"))),
    weights=st.dictionaries(st.sampled_from(["coco", "refcoco", "on", "1e3"]), st.floats(0, 100), min_size=1),
)
def test_every_recipe_survives_its_way_through_yaml(schedule, lr, multipliers, lora, weights):
    sources = {
        name: SOURCE.replace(weight=weight, annotations=("a.json", "b.json")) for name, weight in weights.items()
    }
    original = stage(
        schedule=schedule, optim=AdamW(lr=lr, multipliers=multipliers), lora=lora, data=Data(sources=sources)
    )
    assert from_tree(parse_yaml(to_yaml(to_tree(original)), "test"), "test") == original


def test_a_prefix_matches_whole_names_only():
    assert matches("backbone", "backbone.conv1.weight")
    assert matches("backbone.conv1.weight", "backbone.conv1.weight")
    assert not matches("back", "backbone.conv1.weight")
    assert not matches("conv1", "backbone.conv1.weight")


def test_a_wildcard_is_matched_against_the_whole_name():
    assert matches("*.bias", "backbone.conv1.bias")
    assert not matches("conv1.*", "backbone.conv1.bias")
    assert matches_any(("x", "*.norm.*"), "encoder.norm.weight")
    assert not matches_any((), "anything")


def test_patterns_distinguish_case():
    assert not matches("Backbone", "backbone.weight")
