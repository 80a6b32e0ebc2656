"""What an export tells of its run: a damaged record leaves out what it cannot say, or is one error."""

import contextlib
import json
from pathlib import Path

import pytest
from mmcore.errors import CheckpointError
from mmcore.runs.card import bases, last_metrics

from ..data.damages import DAMAGES

START = {"weights": [{"source": "hf://owner/base@1234"}, "mine.pth"]}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_of_a_run_are_left_out_or_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "eval": {"val/AP": 0.5}}\n')
    (tmp_path / "run.json").write_text(json.dumps({"starts": [START]}))
    assert last_metrics(tmp_path) == {"val/AP": 0.5}
    assert bases(tmp_path) == ["owner/base"]
    for name in ("metrics.jsonl", "run.json"):
        DAMAGES[damage](tmp_path / name)
    assert all(isinstance(value, float) for value in last_metrics(tmp_path).values())
    with contextlib.suppress(CheckpointError):
        assert all(isinstance(name, str) for name in bases(tmp_path))


@pytest.mark.parametrize("weights", [None, 3, "text", {"a": 1}, [None, 3, {"source": ["x"]}]])
def test_weights_of_another_form_name_no_base(tmp_path: Path, weights: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"starts": [{"weights": weights}]}))
    assert bases(tmp_path) == []
