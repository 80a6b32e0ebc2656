"""SAM's maps from a cache: made once, found by themselves, the same losses; refused where the encoder is trained."""

import json
from pathlib import Path

import pytest
from mmcore.cli import main
from mmcore_glamm.data.demo import write_demo

QUICK = ["--variant", "tiny", "--plugin", "glamm", "--stage", "gcg", "--workers", "0"]
PRECISE = ["--set", "model.feature_dtype=fp32", "--set", "frozen=[sam.image_encoder, sam.prompt_encoder]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=8, val=2)
    return folder


@pytest.fixture(autouse=True)
def cache(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(data / "cache"))


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


def test_cached_maps_train_like_live_ones(data, tmp_path, capsys):
    train = ["train", *QUICK, *PRECISE, "--data", data, "--init", "random", "--max-steps", "2"]
    assert command(*train, "--out", tmp_path / "live", "--set", "model.features=live") == 0
    assert command(*train, "--out", tmp_path / "none", "--set", "model.features=cache") == 1
    assert "mmcore data cache" in capsys.readouterr().err
    assert command("data", "cache", *QUICK, *PRECISE, "--data", data) == 0
    assert command("plan", *QUICK[:-2], *PRECISE, "--data", data, "--set", "model.features=auto") == 0
    assert "cached in" in capsys.readouterr().out
    assert command(*train, "--out", tmp_path / "cached", "--set", "model.features=cache") == 0
    live, cached = losses(tmp_path / "live"), losses(tmp_path / "cached")
    assert len(live) == len(cached) > 0
    for one, other in zip(live, cached, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_maps_of_an_encoder_that_is_trained_are_not_cached(data, capsys):
    trained = ["--set", "trainable=[language, sam.image_encoder]"]
    assert command("data", "cache", *QUICK, "--data", data, *trained) == 2
    assert "a map that the recipe trains cannot be cached" in capsys.readouterr().err
