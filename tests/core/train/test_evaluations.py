"""An evaluation never costs a run: the step is saved first, a failure is told, and a resumed run makes up for it."""

import json
import os
import signal
from pathlib import Path

import pytest
from mmcore.errors import DataError, RecipeError, Stopped
from mmcore.train import stored
from mmcore.train.metrics import read

STAGE = {"eval_every": 2, "checkpoint_every": 6, "keep_last": 9, "best_metric": "toy/score"}


def evaluations(run_dir: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "timing"} for r in read(run_dir / "metrics.jsonl") if "eval" in r]


def failing_at(step: int, error: Exception):
    def evaluate(model: object, now: int) -> dict[str, float]:
        if now == step:
            raise error
        return {"toy/score": float(now)}

    return evaluate


class Killed(BaseException):
    """The process ends here."""


def test_every_step_that_is_evaluated_was_saved_before(toy, tmp_path: Path) -> None:
    seen = []

    def evaluate(model: object, step: int) -> dict[str, float]:
        seen.append(step)
        assert stored.last_good(tmp_path, print) == step
        return {"toy/score": -abs(step - 6.0)}

    toy.train(toy.toy_setup(tmp_path, toy.toy_stage(**STAGE), evaluate=evaluate))
    assert seen == [2, 4, 6, 8, 10, 12]
    assert stored.named(tmp_path, "best") == 6


@pytest.mark.parametrize("error", [DataError("image is truncated", where="val/3.jpg"), TypeError("no len()")])
@pytest.mark.parametrize("step", [4, 12])
def test_a_failed_evaluation_is_told_and_recorded_and_the_run_goes_on(
    toy, tmp_path: Path, error: Exception, step: int
) -> None:
    trained = toy.train(toy.toy_setup(tmp_path, toy.toy_stage(**STAGE), evaluate=failing_at(step, error)))
    assert trained.step == 12
    [failed] = [record for record in evaluations(tmp_path) if "failed" in record]
    assert (failed["step"], failed["eval"]) == (step, {})
    assert str(error).split("\n")[0] in failed["failed"]
    assert str(error).split("\n")[0] in (tmp_path / "log.txt").read_text()
    assert (trained.evaluation_failed is not None) == (step == 12)
    assert stored.named(tmp_path, "best") == (12 if step == 4 else 10)


def test_a_failed_last_evaluation_is_made_up_for_by_a_resume(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(**STAGE)
    toy.train(toy.toy_setup(tmp_path, stage, evaluate=failing_at(12, DataError("image is truncated"))))
    again = toy.train(toy.toy_setup(tmp_path, stage, evaluate=failing_at(0, DataError("")), resume=True))
    assert again.evaluation_failed is None
    assert again.metrics == {"toy/score": 12.0}
    assert not [record for record in evaluations(tmp_path) if "failed" in record]
    assert stored.named(tmp_path, "best") == 12


def test_a_run_killed_between_save_and_evaluation_equals_the_uninterrupted_one(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(**STAGE)
    toy.train(toy.toy_setup(tmp_path / "whole", stage, evaluate=failing_at(0, DataError(""))))
    with pytest.raises(Killed):
        toy.train(toy.toy_setup(tmp_path / "cut", stage, evaluate=failing_at(6, Killed())))
    toy.train(toy.toy_setup(tmp_path / "cut", stage, evaluate=failing_at(0, DataError("")), resume=True))
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole")
    for step in stored.steps_of(tmp_path / "whole"):
        whole, cut = (stored.path_of(tmp_path / name, step) / "manifest.json" for name in ("whole", "cut"))
        assert json.loads(whole.read_text()) == json.loads(cut.read_text())


def test_a_run_killed_before_best_was_written_finds_it_again(toy, tmp_path: Path, monkeypatch) -> None:
    """The evaluation stands in the records, its step is the best one, and `best` names another or nothing."""
    stage = toy.toy_stage(**{**STAGE, "keep_last": 1})
    toy.train(toy.toy_setup(tmp_path, stage, evaluate=lambda _, step: {"toy/score": -abs(step - 6.0)}, stop_step=6))
    assert stored.named(tmp_path, "best") == 6
    (tmp_path / "checkpoints" / "best").unlink()
    calls: list[int] = []
    toy.train(
        toy.toy_setup(
            tmp_path, stage, evaluate=lambda _, step: calls.append(step) or {"toy/score": -abs(step - 6.0)}, resume=True
        )
    )
    assert calls == [8, 10, 12]
    assert stored.named(tmp_path, "best") == 6
    assert 6 in stored.steps_of(tmp_path)


def test_a_metric_that_is_undefined_is_told_and_no_mistake(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(**STAGE)
    trained = toy.train(toy.toy_setup(tmp_path, stage, evaluate=lambda _, step: {"toy/other": 0.5}))
    assert trained.step == 12
    assert stored.named(tmp_path, "best") is None
    assert "no toy/score among toy/other" in (tmp_path / "log.txt").read_text()


def test_a_signal_saves_and_leaves_the_evaluation_to_the_resume(toy, tmp_path: Path) -> None:
    stage = toy.toy_stage(**STAGE)
    setup = toy.toy_setup(tmp_path, stage, evaluate=failing_at(0, DataError("")))
    forward, calls = setup.model.forward, []

    def signalled(batch):
        calls.append(batch)
        if len(calls) == 12:  # in step 3, of four micro-batches each; step 4 is told of it
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(batch)

    setup.model.forward = signalled
    with pytest.raises(Stopped):
        toy.train(setup)
    assert [record["step"] for record in evaluations(tmp_path)] == [2]
    assert stored.steps_of(tmp_path)[-1] == 4
    toy.train(toy.toy_setup(tmp_path, stage, evaluate=failing_at(0, DataError("")), resume=True))
    assert [record["step"] for record in evaluations(tmp_path)] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("step", [4, 12])
def test_a_signal_ends_a_long_evaluation_which_the_resume_makes_up(toy, tmp_path: Path, step: int) -> None:
    stage = toy.toy_stage(**STAGE)
    with pytest.raises(Stopped) as caught:
        toy.train(toy.toy_setup(tmp_path, stage, evaluate=failing_at(step, Stopped(signal.SIGTERM, "on the way"))))
    assert caught.value.exit_code == 143
    assert "--resume" in str(caught.value.do)
    assert stored.steps_of(tmp_path)[-1] == step
    assert [record["step"] for record in evaluations(tmp_path)] == list(range(2, step, 2))
    toy.train(toy.toy_setup(tmp_path, stage, evaluate=failing_at(0, DataError("")), resume=True))
    assert evaluations(tmp_path) == [{"step": at, "eval": {"toy/score": float(at)}} for at in range(2, 13, 2)]


def scored(scores: dict[int, float], name: str):
    def evaluate(model: object, step: int) -> dict[str, float]:
        return {name: scores[step]}

    return evaluate


@pytest.mark.parametrize(
    ("name", "scores", "ends", "best"),
    [
        ("toy/score", {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.5, 10: 0.6, 12: 0.7}, 8, 4),
        ("toy/score", {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.6, 10: 0.5, 12: 0.7}, 12, 12),
        ("toy/loss", {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0, 12: 0.5}, 8, 4),
        ("toy/score", {2: float("nan"), 4: 0.5, 6: float("nan"), 8: float("nan"), 10: 0.6, 12: 0.7}, 8, 4),
    ],
)
def test_a_run_ends_when_its_patience_does_and_a_larger_one_goes_on(
    toy, tmp_path: Path, name: str, scores: dict[int, float], ends: int, best: int
) -> None:
    stage = toy.toy_stage(**STAGE | {"best_metric": name, "patience": 2})
    trained = toy.train(toy.toy_setup(tmp_path, stage, evaluate=scored(scores, name)))
    assert (trained.step, stored.named(tmp_path, "best")) == (ends, best)
    ended = [record for record in read(tmp_path / "metrics.jsonl") if "ended" in record]
    assert [record["step"] for record in ended] == [ends] * (ends < 12)
    again = toy.train(toy.toy_setup(tmp_path, stage, evaluate=scored({}, name), resume=True))
    assert again.step == ends, "a resume does not forget"
    assert [record for record in read(tmp_path / "metrics.jsonl") if "ended" in record] == ended
    longer = stage.replace(patience=None)
    assert toy.train(toy.toy_setup(tmp_path, longer, evaluate=scored(scores, name), resume=True)).step == 12


def test_patience_without_something_to_wait_for_is_refused(toy) -> None:
    with pytest.raises(RecipeError, match="there is no best_metric"):
        toy.toy_stage(patience=2, best_metric=None)
    with pytest.raises(RecipeError, match="there is no eval_every"):
        toy.toy_stage(patience=2, best_metric="toy/score", eval_every=None)
