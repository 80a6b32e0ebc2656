"""`mmcore data` where it needs no family: sample data and the list of formats."""

import json

import pytest
from mmcore import cli


def test_sample_data_are_written(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "sample", str(tmp_path / "data"), "--train", "2", "--val", "1"])
    assert not stop.value.code
    assert (tmp_path / "data" / "coco/annotations/instances_train2017.json").exists()
    assert "next: mmcore train" in capsys.readouterr().out


def test_formats_are_listed_with_what_they_teach(run):
    code, said = run("data", "formats", "--json")
    assert code == 0
    listed = {row["name"]: row for row in json.loads(said)}
    assert listed["LVIS v1"]["tasks"] == ["detect", "segment"]
    assert listed["COCO captions"]["options"].keys() == {"requests"}
    code, said = run("data", "formats")
    assert code == 0
    assert "LLaVA JSON" in said
