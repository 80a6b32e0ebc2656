"""Griffon counts what is like a shown crop: photographs with three to eight of a kind, learned by heart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STEPS = 300
COMMON = ("--variant", "tiny", "--init", "random", "--workers", "0", "--device", "cpu", "--no-tensorboard")


def command(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmcore", *arguments],
        cwd=folder,
        env={**os.environ, "MMCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_shown_crop_prompts_a_count(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    lines = [json.loads(line) for line in (data / "griffon_jsonl/coco_visj.jsonl").read_text().splitlines()]
    few = [line for line in lines if len(line["objects"]) == 1 and len(line["objects"][0]["bboxes"]) <= 8][:8]
    (tmp_path / "count.jsonl").write_text("\n".join(map(json.dumps, few)))
    file = "{annotations: count.jsonl, format: visj, images: train2017}"
    (tmp_path / "own.yaml").write_text(f"name: count\nroot: {data / 'coco_mini'}\ntrain: {file}\nval: {file}\n")
    sizes = {"steps": STEPS, "eval_every": STEPS, "global_batch": 8, "micro_batch": 8, "max_length": 1024}
    settings = {**sizes, "optim.lr": 2e-3, "validation.count_val.options.max_new_tokens": 320}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command(tmp_path, "train", "--plugin", "griffon", *COMMON, "--own", "own.yaml", "--out", "run", *overrides)
    [judged] = (tmp_path / "run/evals").glob("**/metrics.json")
    metrics = json.loads(judged.read_text())["metrics"]
    assert (metrics["MAE"], metrics["parse_rate"]) == (0, 1)

    first = few[0]
    boxes = first["objects"][0]["bboxes"]
    picture = data / "coco_mini/train2017" / first["image_path"]
    for shown in boxes[:2]:
        command(tmp_path, "predict", "run", str(picture), "--example", ",".join(map(str, shown)), "--out", "found")
        found = json.loads(next((tmp_path / "found").glob("*.json")).read_text())["objects"]
        assert len(found) == len(boxes)

    # A crop that is a file of its own, of a picture that the model does not know: it is asked, and answers in boxes.
    demo = data / "griffon_demo/demo"
    command(
        tmp_path, "predict", "run", str(demo / "woods.jpg"), "--example", str(demo / "woods_crop.jpg"), "--out", "woods"
    )
    told = json.loads((tmp_path / "woods/woods.json").read_text())
    assert told["example"] == str(demo / "woods_crop.jpg")
    assert told["text"].startswith("[")
