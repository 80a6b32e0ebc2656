"""What nobody would act on is refused before training, with the nearest name."""

from functools import partial
from pathlib import Path

import pytest
from mmcore import AdamW, Constant, Data, Datasets, Model, Source, Stage, Validation
from mmcore.data.formats.questions import Question
from mmcore.errors import RecipeError
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.lvis import LvisEvaluator
from mmcore.evaluate.refcoco import RefCocoEvaluator
from mmcore.evaluate.vqa import AnswerEvaluator
from mmcore.runs.checks import check_metrics, check_model
from mmcore.runs.settings import Settings, for_training


def stage(**changes) -> Stage:
    source = Source(weight=1.0, format="COCO instances", annotations="a.json")
    val = Validation(format="COCO instances", annotations="v.json", metrics=("bbox/AP",))
    return Stage(
        number=1, name="one", title="a stage", origin="assumed", steps=10, global_batch=2, micro_batch=2,
        data=Data(sources={"coco": source}), optim=AdamW(lr=1e-3), schedule=Constant(), validation={"coco_val": val},
    ).replace(**changes)  # fmt: skip


def offering(**attributes) -> Model:
    """A model that says this of itself."""
    return type("Toy", (Model,), attributes)()


VALIDATION = Datasets({}, {}, {"coco_val": partial(CocoEvaluator, Path("v.json"))})


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"loss_weights": {"loss_typo": 3.0}}, {"loss_weights": {"loss_type": 1.0}}, "did you mean 'loss_type'?"),
        ({"loss_weights": {"loss_box": 3.0}}, {}, "has no loss 'loss_box'"),
        ({"loss_weights": {"loss_box": 3.0}}, {"loss_weights": {"loss_box": 1.0}}, "the recipe says 3.0"),
        ({"max_length": 77}, {}, "does not go by this entry"),
        ({"max_length": 77}, {"max_length": 80}, "its model has 80"),
    ],
)
def test_an_entry_that_the_model_does_not_go_by_is_refused(changes, model, words):
    with pytest.raises(RecipeError) as caught:
        check_model(offering(**model), stage(**changes), "owl")
    assert words in str(caught.value)
    assert f"stage 1 one, {next(iter(changes))}" in str(caught.value.where)


def test_a_model_that_goes_by_its_recipe_passes():
    model = offering(loss_weights={"loss_box": 3.0, "loss_mask": 1.0}, max_length=77)
    check_model(model, stage(loss_weights={"loss_box": 3.0}, max_length=77), "owl")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_metric": "coco_val/bbox/AP500"}, "did you mean 'bbox/AP50'?"),
        ({"best_metric": "coco_vol/bbox/AP"}, "did you mean 'coco_val/bbox/AP'?"),
        ({"best_metric": "bbox/AP"}, "belongs to no validation set"),
        ({"validation": {}, "best_metric": "coco_val/bbox/AP"}, "belongs to no validation set"),
        ({"validation": {"coco_val": Validation(metrics=("bbox/AP", "mask/AP"))}}, "the evaluation gives no 'mask/AP'"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused(changes, words):
    with pytest.raises(RecipeError) as caught:
        check_metrics(stage(**changes), VALIDATION)
    assert words in str(caught.value)


def test_a_set_that_the_run_leaves_out_is_told_and_no_error():
    best = stage(best_metric="coco_val/bbox/AP")
    assert check_metrics(best, VALIDATION) is None
    assert "not evaluated with --sources refcoco" in str(check_metrics(best, Datasets({}, {}), ["refcoco"]))


def test_evaluators_name_their_metrics():
    coco = CocoEvaluator(Path("v.json")).metric_names
    assert {"bbox/AP", "bbox/AP50", "segm/APs", "bbox/AR@100", "segm/ARl"} < set(coco)
    lvis = LvisEvaluator(Path("v.json"), iou_types=("bbox",)).metric_names
    assert {"bbox/APr", "bbox/AR@300"} < set(lvis)
    assert not {"bbox/AR@1", "segm/AP"} & set(lvis)
    assert "bbox/P@0.5" in RefCocoEvaluator(Path("v.json")).metric_names
    questions = [Question(1, "what?", None, ("a",), {"category": "colour"})]
    assert AnswerEvaluator(questions).metric_names == ("accuracy", "accuracy/colour")
    assert "chance" in AnswerEvaluator(questions, {}).metric_names


def test_training_evaluates_the_sets_that_are_for_it_and_chooses_by_no_other() -> None:
    hours = stage().validation["coco_val"].replace(training=False)
    both = {**stage().validation, "benchmark": hours}
    asked = Settings(plugin="toy", variant="tiny", stage=stage(validation=both), data="data")
    assert list(for_training(asked).stage.validation) == ["coco_val"]
    best = asked.replace(stage=stage(validation=both, best_metric="benchmark/bbox/AP"))
    with pytest.raises(RecipeError, match="training does not evaluate"):
        for_training(best)
