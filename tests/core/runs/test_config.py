"""Recipes are resolved from plugin, YAML and --set, and wrong ones are answered with the nearest right one."""

import json

import pytest
from mmcore import AdamW, ByLength, Cosine, Data, MultiStep, Source, Stage, Validation, WholeEpochs
from mmcore.base.yamltext import parse_yaml, to_yaml
from mmcore.errors import RecipeError
from mmcore.runs.config import from_tree, resolve, to_tree


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


def test_an_empty_configuration_changes_nothing(stage: Stage, tmp_path) -> None:
    for content in ("", "{}", "# nothing yet\n"):
        (tmp_path / "mine.yaml").write_text(content)
        assert resolve(stage, tmp_path / "mine.yaml") == (stage, {})


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


def test_a_best_metric_goes_with_its_set_unless_it_was_asked_for(stage: Stage) -> None:
    val = Validation(format="COCO instances", annotations="val.json")
    stage = stage.replace(validation={"coco_val": val}, best_metric="coco_val/bbox/AP")
    resolved, origins = resolve(stage, None, ["validation.coco_val=null"])
    assert (resolved.best_metric, resolved.validation) == (None, {})
    assert origins["best_metric"] == "its validation set coco_val was taken out"
    resolved, _ = resolve(stage, None, ["validation={}", "best_metric=coco_val/bbox/AP50"])
    assert resolved.best_metric == "coco_val/bbox/AP50"


@pytest.mark.parametrize(
    "text",
    ["validation=[3]", "validation=[{format: x}]", "validation=3", "validation.mine=3", "data.sources=3",
     "data.sources=[1]", "data.sources.mine=3", "data=3", "schedule=3", "lora=3", "optim=null", "data=null",
     "validation.coco_val=[1]", "model=3", "data.transform=null", "optim.multipliers=3", "loss_weights=null"],
)  # fmt: skip
def test_a_value_where_a_group_belongs_is_refused(stage: Stage, text: str) -> None:
    with pytest.raises(RecipeError):
        resolve(stage, None, [text])


def test_shares_and_steps_replace_each_other(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["schedule.milestone_ratios=[0.5]", "schedule.warmup_ratio=0.1"])
    assert resolved.schedule == MultiStep(milestone_ratios=(0.5,), warmup_ratio=0.1)
    resolved, _ = resolve(resolved, None, ["schedule.warmup_steps=3"])
    assert resolved.schedule == MultiStep(milestone_ratios=(0.5,), warmup_steps=3)


def test_another_mixture_drops_what_it_does_not_have(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["data.mixture.by_aspect=true", "data.mixture.kind=epochs"])
    assert resolved.data.mixture == WholeEpochs(by_aspect=True)
    resolved, _ = resolve(resolved, None, ["data.mixture.kind=length", "data.mixture.by_modality=true"])
    assert resolved.data.mixture == ByLength(by_modality=True)


def test_entries_of_the_new_kind_may_stand_before_it(stage: Stage, tmp_path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "data: {mixture: {source_per: sample, kind: epochs}}\nschedule: {warmup_ratio: 0.1, kind: cosine}\n"
    )
    resolved, _ = resolve(stage, config)
    assert resolved.data.mixture == WholeEpochs(source_per="sample")
    assert resolved.schedule == Cosine(warmup_ratio=0.1, warmup_factor=1.0)


def test_a_family_setting_may_be_nested_and_a_new_source_named(stage: Stage) -> None:
    resolved, _ = resolve(
        stage,
        None,
        [
            "model.vision.depth=3",
            "data.sources.mine={weight: 2.0, format: COCO instances, annotations: a.json}",
            "lora.rank=4",
            "lora.alpha=8.0",
            "lora.targets=[q]",
        ],
    )
    assert resolved.model == {"vision": {"depth": 3}}
    assert resolved.data.sources["mine"] == Source(weight=2.0, format="COCO instances", annotations="a.json")
    assert resolve(resolved, None, ["data.sources.coco=null"])[0].data.sources.keys() == {"mine"}
    assert resolve(resolved, None, ["data.sources=null"])[0].data.sources == {}


def test_validation_sets_are_addressed_and_added_by_name(stage: Stage) -> None:
    stage = stage.replace(validation={"coco_val": Validation(format="COCO instances", annotations="val.json")})
    added = "validation.mine={format: COCO boxes, annotations: mine.json}"
    resolved, origins = resolve(stage, None, ["validation.coco_val.options.names=file", added])
    assert resolved.validation["coco_val"].options == {"names": "file"}
    assert resolved.validation["mine"].annotations == "mine.json"
    assert origins["validation.coco_val.options.names"] == "--set validation.coco_val.options.names=file"
    assert resolve(resolved, None, ["validation={}"])[0].validation == {}
    with pytest.raises(RecipeError, match="'mine2' is new in validation and lacks annotations"):
        resolve(resolved, None, ["validation.mine2.format=COCO boxes"])


def test_epochs_replace_steps(stage: Stage) -> None:
    resolved, _ = resolve(stage, None, ["epochs=3"])
    assert (resolved.steps, resolved.epochs) == (None, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optm.lr=1", "did you mean 'optim'?"),
        ("optim.lrr=1", "did you mean 'lr'?"),
        ("data.sources.cocoo.weight=1.0", "did you mean 'coco'?"),
        ("data.sources.mine.weight=1.0", "'mine' is new in data.sources and lacks format, annotations"),
        ("data.mixture.kind=epoch", "did you mean 'epochs'?"),
        ("data.mixture.by_aspekt=true", "did you mean 'by_aspect'?"),
        ("data.mixture.by_modality=true", "SourcePerBatch has no key 'by_modality'"),
        ("optim.lr=fast", "valid number"),
        ("precision=bf17", "'bf16'"),
        ("global_batch=3", "not a multiple of micro_batch"),
        ("steps.more=3", "is a value, not a group"),
        ("steps", "--set wants key=value"),
        ("schedule.milestone=[1]", "milestone"),
        ("optim.lr=.inf", "optim.lr is inf"),
        ("optim.lr=1e999", "optim.lr is inf"),
        ("data.transform.size=.nan", "data.transform.size is nan"),
        ("optim.betas=[0.9, .nan]", "optim.betas.1 is nan"),
        ("optim.lr=!!python/object/apply:os.system [true]", "not a valid configuration"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(stage: Stage, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(stage, None, [text])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


VAL = {"format": "COCO instances", "annotations": "val.json", "images": "val"}


@pytest.mark.parametrize(
    ("given", "names"), [([], []), ({}, []), ([{"source": "mine", **VAL}], ["mine"]), ({"mine": VAL}, ["a", "mine"])]
)
def test_validation_sets_are_a_mapping_and_a_list_replaces_them_all(stage, tmp_path, given, names):
    before = stage.replace(validation={"a": Validation(format="COCO instances", annotations="a.json")})
    (tmp_path / "my.yaml").write_text(json.dumps({"validation": given}))
    by_file, _ = resolve(before, tmp_path / "my.yaml")
    by_set, _ = resolve(before, None, [f"validation={json.dumps(given)}"])
    assert by_file == by_set
    assert list(by_file.validation) == (names if given != {} else [])


@pytest.mark.parametrize("given", [[VAL], [{"source": "a", **VAL}] * 2, ["a"], [{"source": 3, **VAL}]])
def test_a_list_of_validation_sets_without_names_is_refused(stage, given):
    with pytest.raises(RecipeError, match="name of its own"):
        resolve(stage, None, [f"validation={json.dumps(given)}"])
