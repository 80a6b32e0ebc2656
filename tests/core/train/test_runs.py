"""`mmcore runs` and `mmcore report` over real run folders."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mmcore.cli.report import labels, report
from mmcore.cli.runs import runs
from mmcore.contract.recipe import AdamW, Validation
from mmcore.errors import CheckpointError
from mmcore.runs.settings import Settings, read_settings, write_config
from PIL import Image


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


def test_several_runs_are_compared_by_settings_figures_and_curves(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    settings = read_settings(folder / "stopped")
    write_config(settings.replace(stage=settings.stage.replace(optim=AdamW(lr=0.5))), folder / "stopped")
    text = invoke(report, "finished", "stopped", "--csv", "all.csv")
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert lines["step"] == ["12/12", "5/12"]
    assert lines["toy/score"][0] == "-600.0%"
    assert lines["stage.optim.lr"][1] == "0.5"
    assert "stage.global_batch" not in lines, "what is equal is not told"
    with Image.open(folder / "comparison.png") as picture:
        assert min(picture.size) > 400
    rows = list(csv.DictReader((folder / "all.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == {"finished", "stopped"}
    logged = [float(row["total"]) for row in rows if row["run"] == "finished" and row["total"]]
    records = map(json.loads, (folder / "finished" / "metrics.jsonl").read_text().splitlines())
    assert logged == [record["total"] for record in records if "total" in record]


def test_runs_with_equal_settings_say_so(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert "the settings are equal" in invoke(report, "finished", "stopped")
    record = json.loads(invoke(report, "finished", "stopped", "--json"))
    assert [run["label"] for run in record["runs"]] == ["finished", "stopped"]
    assert record["differences"] == {}


def test_a_validation_set_that_only_one_run_has_is_one_difference(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    settings = read_settings(folder / "finished")
    sets = {"one": Validation(format="toy", annotations="a.json"), "two": Validation(format="toy")}
    for run, names in (("finished", ("one", "two")), ("stopped", ("two",))):
        stage = settings.stage.replace(validation={name: sets[name] for name in names})
        write_config(settings.replace(stage=stage), folder / run)
    found = json.loads(invoke(report, "finished", "stopped", "--json"))["differences"]
    assert list(found) == ["stage.validation.one"]
    assert found["stage.validation.one"][0]["annotations"] == "a.json"
    assert found["stage.validation.one"][1] is None


def test_labels_tell_runs_of_one_name_apart() -> None:
    assert labels((Path("a/run"), Path("b/run"))) == ["a/run", "b/run"]
    assert labels((Path("a/run"), Path("b/walk"))) == ["run", "walk"]


def test_a_report_of_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        invoke(report, str(tmp_path / "nothing"))
