"""Benchmarks: the published rules on small examples, the golden case, and probing's curve as numbers and picture."""

from pathlib import Path

import numpy as np
import pytest
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.questions import Question
from mmcore.errors import RecipeError
from mmcore.parity import Case, Report
from mmcore_visper.evaluate import BENCHMARKS, benchmark
from mmcore_visper.evaluate.benchmarks import (
    CvBench,
    Mme,
    RealWorldQa,
    cv_bench_answers,
    mme_score,
    mmstar_right,
    realworldqa_filtered,
)
from mmcore_visper.evaluate.probing import ProbeEvaluator, closer_point_right, mean_iou
from mmcore_visper.parity.metrics import check
from mmcore_visper.recipes import BENCHMARKS as VALIDATION


def test_the_published_scripts_numbers_are_reproduced(shared: Path) -> None:
    report = Report(Case(shared / "goldens" / "visper" / "eval_metrics"))
    check(report.case, report)
    assert report.finish()
    assert len(report.lines) > 60


def test_every_benchmark_of_the_recipe_can_be_scored_and_has_its_published_limit() -> None:
    limits = {"cv_bench": 128, "mmstar": 128, "realworldqa": 16, "okvqa": 1024, "mme": 16}
    assert {name: entry.options["max_new_tokens"] for name, entry in VALIDATION.items()} == limits
    assert all(entry.format in BENCHMARKS for entry in VALIDATION.values())
    assert benchmark("LLaVA JSON") is BENCHMARKS["questions"]


def test_a_bracket_without_an_option_repeats_the_one_before() -> None:
    rows = [{"prediction": text} for text in ("(B) it is", "(see above)", "C", "")]
    assert cv_bench_answers(rows) == ["(B)", "(B)", "(C)", "()"]


@pytest.mark.parametrize("said", ["B", "b. because", "(B)", "Option B", "The answer is B"])
def test_a_letter_counts_however_it_is_introduced(said: str) -> None:
    assert mmstar_right(said, "B")
    assert not mmstar_right(said, "C")


def test_yes_and_no_are_looked_for_in_four_characters() -> None:
    assert mme_score("Yes, it is", "Yes") == 1.0
    assert mme_score("I think yes", "Yes") == 0.0
    assert mme_score("no", "Yes") == 0.0


def test_a_choices_text_becomes_its_letter() -> None:
    question = "What is nearer?\nA. the red car\nB. the bus"
    assert realworldqa_filtered("the bus", question) == "B"
    assert realworldqa_filtered("three", "How many?") == "3"


def answers(evaluator: object, said: list[str]) -> dict[str, float]:
    """What an evaluator makes of these answers, in the order of its questions."""
    ids = list(evaluator.questions)  # type: ignore[attr-defined]
    predictions = [Prediction(image_id=id_, size=(0, 0), text=text) for id_, text in zip(ids, said, strict=True)]
    evaluator.update(Batch("x", (), {}), predictions)  # type: ignore[attr-defined]
    return evaluator.summarise(evaluator.state())  # type: ignore[attr-defined]


def test_mme_wants_both_questions_of_a_picture_right() -> None:
    facts = {"category": "existence", "question_id": "a.png"}
    questions = [Question(f"a#{n}", "Is it?", "a.png", (answer,), facts) for n, answer in enumerate(("Yes", "No"))]
    assert answers(Mme(questions), ["yes", "no"])["perception"] == pytest.approx(2.0)
    assert answers(Mme(questions), ["yes", "yes"])["perception"] == pytest.approx(0.5)


def test_cv_bench_weighs_its_two_dimensional_sources_alike() -> None:
    rows = [("ADE20K", "Count", "(A)"), ("COCO", "Count", "(A)"), ("COCO", "Count", "(B)"), ("Omni3D", "Depth", "(A)")]
    questions = [Question(n, "?", None, (a,), {"source": s, "task": t}) for n, (s, t, a) in enumerate(rows)]
    metrics = answers(CvBench(questions), ["(A)"] * 4)
    assert metrics["2D"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["overall"] == pytest.approx((0.75 + 1) / 2)


def test_realworldqa_compares_after_its_filters() -> None:
    questions = [Question(0, "How many?", None, ("3",), {}), Question(1, "Is it red?", None, ("Yes",), {})]
    assert answers(RealWorldQa(questions), ["Three", "yes."])["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("The red car.", "B"), ("B", "B"), ("b.", "b"), ("Left of the red car", "A"), ("a red car is Left", "B"),
        ("red  car", "red  car"), ("10 mph", "10 mph"), ("three", "3"), ("Three cars", "Three cars"), ("(C)", "C"),
    ],
)  # fmt: skip
def test_the_choice_that_is_found_first_in_a_reply_becomes_its_letter(said: str, becomes: str) -> None:
    """As lmms-eval's filters do, whose pattern has the choices as they stand, and looks into a reply without marks."""
    question = "What is it?\nA. Left\nB. red car\nC. 10 m.p.h.\nAnswer with the letter."
    assert realworldqa_filtered(said, question) == becomes


def test_classes_that_are_not_in_the_truth_do_not_count() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    assert mean_iou(truth, np.array([[0, 0, 1, 0]], np.uint8)) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_iou(truth, np.array([[0, 2, 1, 1]], np.uint8)) == pytest.approx((0.5 + 0.5) / 2)
    assert mean_iou(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8)) == 0.0


def test_the_larger_depth_is_closer_also_in_bytes() -> None:
    depth = np.array([[250, 3]], np.uint8)
    assert closer_point_right(depth, (0, 0), (0, 1), "point1")
    assert not closer_point_right(depth, (0, 0), (0, 1), "point2")


def test_probing_averages_over_images_and_draws_the_layers(tmp_path: Path) -> None:
    evaluator = ProbeEvaluator("depth")
    layers = [(0.1, 0.5, 0.3), (0.3, 0.7, 0.1)]
    predictions = [Prediction(image_id=n, size=(1, 1), measures={"cosine": row}) for n, row in enumerate(layers)]
    evaluator.update(Batch("x", (), {}), predictions)
    items = [*evaluator.state(), evaluator.state()[0]]
    metrics = evaluator.summarise(items)
    assert metrics["layer/02"] == pytest.approx(0.6)
    assert (metrics["best"], metrics["mean"]) == (pytest.approx(0.6), pytest.approx(1.0 / 3))
    evaluator.write(items, tmp_path)
    assert (tmp_path / "probes.png").stat().st_size > 10_000


def test_an_unknown_image_mode_is_refused_by_name() -> None:
    from mmcore_visper.config import VARIANTS

    with pytest.raises(RecipeError, match="image_aspect cannot be 'sqare'"):
        VARIANTS["tiny"].replace(image_aspect="sqare")
