"""Recipes are resolved from plugin, YAML and --set, and wrong ones are answered with the nearest right one."""

import pytest
from mmcore import AdamW, Data, MultiStep, Source, Stage
from mmcore.errors import RecipeError
from mmcore.runs.config import MAX_YAML_ALIASES, MAX_YAML_BYTES, from_tree, parse_yaml, resolve, to_tree, to_yaml


@pytest.fixture
def stage() -> Stage:
    return Stage(
        number=2,
        name="joint",
        title="a test",
        origin="nowhere",
        steps=10,
        global_batch=4,
        micro_batch=2,
        data=Data(sources={"coco": Source(weight=1.5, format="COCO instances")}),
        optim=AdamW(lr=1e-4, multipliers={"backbone": 0.1}),
        schedule=MultiStep(milestones=(5, 8)),
    )


def test_yaml_of_a_recipe_reads_back_to_the_same_recipe(stage: Stage) -> None:
    assert from_tree(parse_yaml(to_yaml(to_tree(stage)), "test"), "test") == stage


def test_set_wins_over_config_and_both_are_named_as_origin(stage: Stage, tmp_path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("optim: {lr: 1e-3, weight_decay: 0.1}\nsteps: 20\n")
    resolved, origins = resolve(stage, config, ["optim.lr=2e-3"])
    assert (resolved.optim.lr, resolved.optim.weight_decay, resolved.steps) == (2e-3, 0.1, 20)
    assert origins["optim.lr"] == "--set optim.lr=2e-3"
    assert origins["optim.weight_decay"] == str(config)


def test_a_pattern_with_dots_is_one_key(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["optim.multipliers.*.norm.*=0.5"])
    assert resolved.optim.multipliers == {"backbone": 0.1, "*.norm.*": 0.5}


def test_another_schedule_drops_the_numbers_of_the_old_one(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["schedule.kind=cosine", "schedule.warmup_ratio=0.03"])
    assert resolved.schedule.kind == "cosine"


def test_epochs_replace_steps(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["epochs=3"])
    assert (resolved.steps, resolved.epochs) == (None, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optm.lr=1", "did you mean 'optim'?"),
        ("optim.lrr=1", "did you mean 'lr'?"),
        ("data.sources.cocoo.weight=1.0", "did you mean 'coco'?"),
        ("optim.lr=fast", "valid number"),
        ("precision=bf17", "'bf16'"),
        ("global_batch=3", "not a multiple of micro_batch"),
        ("steps.more=3", "is a value, not a group"),
        ("steps", "--set wants key=value"),
        ("schedule.milestone=[1]", "milestone"),
        ("optim.lr=!!python/object/apply:os.system [true]", "not a valid configuration"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(stage: Stage, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(stage, None, [text])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("3", 3), ("on", "on"), ("no", "no"), ("true", True), (".5", 0.5), ("1_000", 1000)],
)
def test_yaml_words_and_numbers_mean_what_they_say(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "a: [" * 50 + "]" * 50,
        "x" * (MAX_YAML_BYTES + 1),
        "a: &a [1]\nb: [" + ", ".join(["*a"] * (MAX_YAML_ALIASES + 1)) + "]",
        "a: !!python/name:os.system x",
        "a:\n\t- tab",
        "{a: 1",
    ],
)
def test_hostile_or_broken_yaml_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_yaml(text, "test")
