"""The stages one after the other through the commands, on a handful of pictures: train, evaluate, predict, draw."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mmcore.cli import main
from mmcore_visper.data.demo import write_demo
from PIL import Image

Run = Callable[..., str]
QUICK = ["--workers", "0", "--max-steps", "2", "--variant", "tiny", "--plugin", "visper"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every tiny stage, each from the one before, of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_demo(folder / "data", train=16, val=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCORE_CACHE", str(folder / "cache"))
        start = ["--init", "random"]
        for stage in ("pt", "ift", "probe"):
            out = folder / stage
            command(["train", *QUICK, "--stage", stage, "--data", data, "--out", out, *start])
            start = ["--init", str(out)]
    return folder


def command(arguments: list[object]) -> None:
    """Run a command that succeeds."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0


def logged(run: Path, key: str) -> dict[str, float]:
    """The last entry of this kind in a run's metrics."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line][-1]


def test_the_first_stage_logs_its_text_loss_and_one_loss_a_task(runs: Path) -> None:
    assert set(logged(runs / "pt", "losses")) == {"text", "gen", "depth", "seg"}
    assert (runs / "pt" / "curves.png").stat().st_size > 10_000


def test_a_run_keeps_the_tokenizer_that_its_ids_mean(runs: Path) -> None:
    assert (runs / "ift" / "tokenizer" / "tokenizer.json").is_file()


def test_accuracy_is_logged_beside_the_chance_level(runs: Path) -> None:
    metrics = logged(runs / "ift", "eval")
    assert 0 <= metrics["demo_val/accuracy"] <= 1
    assert 0 < metrics["demo_val/chance"] < 0.8
    folder = runs / "ift" / "evals" / "demo_val"
    asked = (runs / "data" / "visper" / "questions_val.jsonl").read_text().splitlines()
    assert len((folder / "answers.jsonl").read_text().splitlines()) == len(asked) >= 4


def test_probing_scores_every_layer_and_draws_them(runs: Path) -> None:
    metrics = logged(runs / "probe", "eval")
    assert [name for name in metrics if "/layer/" in name] == [f"coco_probe_val/layer/0{n}" for n in range(1, 5)]
    assert (runs / "probe" / "evals" / "coco_probe_val" / "probes.png").is_file()


def test_predict_writes_the_answer_beside_the_picture_also_without_the_data(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    picture = next((runs / "data" / "visper" / "images").glob("*.jpg"))
    command(["predict", runs / "ift", picture, "--prompt", "What color is the circle?", "--out", tmp_path])
    assert picture.name in capsys.readouterr().out
    answer = json.loads((tmp_path / f"{picture.stem}.json").read_text())
    assert answer["prompt"] == "What color is the circle?"
    assert isinstance(answer["text"], str)
    with Image.open(tmp_path / f"{picture.stem}.png") as drawn:
        assert drawn.width > 600
    assert not (tmp_path / "cache" / "tokenizers").exists()


def test_show_draws_pictures_with_their_tokens(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(runs / "cache"))
    options = ["--plugin", "visper", "--variant", "tiny", "--stage", "ift", "--data", runs / "data"]
    command(["data", "show", *options, "--count", "2", "--out", tmp_path])
    assert len(list(tmp_path.glob("0*.png"))) == 2
    assert (tmp_path / "sheet.png").is_file()
