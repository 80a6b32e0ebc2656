"""Words and names in any language, also where the locale knows ASCII only and Python keeps bytes it cannot read."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from mmcore.cli.options import as_words
from mmcore.show.plots import plot_curves
from mmcore.train.metrics import read

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LINE = '{"step": 1, "total": 2.0, "losses": {"a": 2.0}, "lr": {"group0": 0.1}, "timing": {"samples_per_s": 1.0}}\n'


@pytest.mark.parametrize("said", ["a red cup", "café", "红色的杯子", "чашка"])
def test_words_arrive_as_they_were_typed(said: str) -> None:
    code = "import sys; from mmcore.cli.options import as_words; print(ascii(as_words(sys.argv[1])))"
    for environment in ({}, ASCII):
        command = [sys.executable, "-c", code, said]
        told = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == ascii(said)


def test_what_is_not_utf8_is_refused_with_a_remedy() -> None:
    with pytest.raises(click.UsageError, match=r"is not UTF-8. Use a UTF-8 locale"):
        as_words("caf\udce9")


@pytest.mark.parametrize("name", ["caf\udcc3\udca9", "caf\udce9", "линия"])
def test_the_curves_of_a_folder_with_any_name_are_drawn(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / name
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(LINE)
    assert read(run_dir / "metrics.jsonl")
    assert plot_curves(run_dir, output=tmp_path / "curves.png").stat().st_size > 1000
