"""`mmcore runs` and `mmcore report` over real run folders."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mmcore.cli.runs import report, runs
from mmcore.errors import CheckpointError
from mmcore.runs.settings import Settings, write_config


@pytest.fixture
def folder(toy, tmp_path: Path) -> Path:
    """One finished run, one stopped, one that is broken."""
    for name, stop in (("finished", None), ("stopped", 5)):
        stage = toy.toy_stage(eval_every=4, best_metric="toy/score")
        write_config(Settings(plugin="toy", variant="tiny", stage=stage, data="data"), tmp_path / name)
        setup = toy.toy_setup(tmp_path / name, stage, stop_step=stop, evaluate=toy.evaluate)
        toy.train(setup)
    # As a run looks whose process was killed between two checkpoints.
    state = tmp_path / "stopped/checkpoints/step-00000005/state.json"
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("stage: [")
    return tmp_path


def invoke(command, *arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_runs_are_listed_with_their_state(folder: Path) -> None:
    listed = {run["name"]: run for run in json.loads(invoke(runs, str(folder), "--json"))}
    assert {name: run["state"] for name, run in listed.items()} == {
        "finished": "finished", "stopped": "stopped", "broken": "unreadable",
    }  # fmt: skip
    run = listed["finished"]
    assert (run["plugin"], run["stage"], run["step"], run["steps"], run["best"]) == ("toy", "1 toy", 12, 12, 4)
    assert run["loss"] > 0
    text = invoke(runs, str(folder))
    assert "12/12" in text
    assert "5/12" in text
    assert "broken: unreadable" in text


def test_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    assert "mmcore train" in invoke(runs, str(tmp_path))


def test_a_report_draws_the_curves_and_says_how_it_went(folder: Path) -> None:
    text = invoke(report, str(folder / "finished"))
    assert (folder / "finished" / "curves.png").stat().st_size > 1000
    assert "step 12 of 12, 96 samples" in text
    assert "best 4" in text
    record = json.loads(invoke(report, str(folder / "finished"), "--json"))
    assert record["last"]["step"] == 12
    assert record["metrics"]["toy/score"] == -6.0


def test_a_report_of_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        invoke(report, str(tmp_path / "nothing"))
