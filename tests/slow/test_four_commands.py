"""Somebody's own data from an export to a fine-tuned, evaluated, drawn and exported model, by four commands.

The photographs are COCO's, with classes renamed as nobody's published weights know them, in the folders that Roboflow
writes: the pictures of a split beside their `_annotations.coco.json`, ids from 0, and a class above all others of which
no object is. The same pictures with questions, as LLaVA's JSON and as `messages`, for a language model.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmcore
import pytest

pytestmark = pytest.mark.slow

CLASSES = {"person": "warehouse worker", "car": "lift truck", "chair": "pallet jack"}
NAMES = list(CLASSES.values())
PICTURES = {"train": ("train2017", 12), "valid": ("val2017", 6)}
COMMON = ("--variant", "tiny", "--init", "random", "--workers", "0", "--device", "cpu", "--no-tensorboard")
Objects = dict[str, list[str]]
"""File of a picture -> what is on it."""


@pytest.fixture(scope="module")
def own(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, and an own-data file for each kind of annotations."""
    folder = tmp_path_factory.mktemp("own")
    for split, (origin, count) in PICTURES.items():
        on_them = roboflow(shared / "data" / "coco_mini", origin, folder / split, count)
        (folder / split / "llava.json").write_text(json.dumps(llava(on_them)))
        (folder / split / "messages.jsonl").write_text("\n".join(map(json.dumps, messages(on_them))))
    for name, file in (("coco", "_annotations.coco.json"), ("llava", "llava.json"), ("messages", "messages.jsonl")):
        (folder / f"{name}.yaml").write_text(
            f"name: shelves\ntrain: {{annotations: train/{file}}}\nval: {{annotations: valid/{file}}}\n"
        )
    return folder


def roboflow(coco: Path, origin: str, folder: Path, count: int) -> Objects:
    """One split of the export."""
    told = json.loads((coco / "annotations" / f"instances_{origin}.json").read_text())
    kinds = {kind["id"]: CLASSES[kind["name"]] for kind in told["categories"] if kind["name"] in CLASSES}
    objects = [one for one in told["annotations"] if one["category_id"] in kinds and not one["iscrowd"]]
    having = {one["image_id"] for one in objects}
    images = [image for image in told["images"] if image["id"] in having][:count]
    place = {image["id"]: number for number, image in enumerate(images)}
    objects = [one for one in objects if one["image_id"] in place]
    above = {"id": 0, "name": "warehouse", "supercategory": "none"}
    written = {
        "info": {"description": "Exported from roboflow.com", "date_created": "2026-01-01T00:00:00+00:00"},
        "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        "categories": [
            above,
            *({"id": i, "name": name, "supercategory": "warehouse"} for i, name in enumerate(NAMES, 1)),
        ],
        "images": [
            {"id": place[image["id"]], "license": 1, "file_name": renamed(image["file_name"]), "date_captured": "",
             "height": image["height"], "width": image["width"], "extra": {"name": image["file_name"]}}
            for image in images
        ],
        "annotations": [
            {"id": number, "image_id": place[one["image_id"]], "bbox": one["bbox"], "area": one["area"], "iscrowd": 0,
             "category_id": NAMES.index(kinds[one["category_id"]]) + 1, "segmentation": one["segmentation"]}
            for number, one in enumerate(objects)
        ],
    }  # fmt: skip
    folder.mkdir()
    (folder / "_annotations.coco.json").write_text(json.dumps(written))
    for image in images:
        shutil.copy(coco / origin / image["file_name"], folder / renamed(image["file_name"]))
    on_them: Objects = {renamed(image["file_name"]): [] for image in images}
    for one in written["annotations"]:
        on_them[written["images"][one["image_id"]]["file_name"]].append(NAMES[one["category_id"] - 1])
    return on_them


def renamed(name: str) -> str:
    return f"{Path(name).stem}_jpg.rf.5c6e0d5f9a8b7c6d.jpg"


def answer(objects: list[str]) -> str:
    return " and ".join(f"a {name}" for name in NAMES if name in objects)


def llava(on_them: Objects) -> list[dict[str, Any]]:
    return [
        {"id": Path(file).stem, "image": file, "conversations": [
            {"from": "human", "value": "<image>\nWhat is here?"}, {"from": "gpt", "value": answer(objects)}]}
        for file, objects in on_them.items()
    ]  # fmt: skip


def messages(on_them: Objects) -> list[dict[str, Any]]:
    return [
        {"images": [file], "messages": [
            {"role": "user", "content": "<image>What is here?"}, {"role": "assistant", "content": answer(objects)}]}
        for file, objects in on_them.items()
    ]  # fmt: skip


def command(folder: Path, *given: str) -> str:
    """What a command says, run in the folder of the data."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMCORE_CACHE": str(folder / "cache")}
    words = [sys.executable, "-m", "mmcore", *given]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_detectors_answers_are_in_its_users_names(own: Path) -> None:
    pytest.importorskip("mmcore_glee")
    [picture] = sorted(own.glob("valid/*.jpg"))[:1]
    short = ("--set", "steps=4", "--set", "global_batch=2", "--set", "micro_batch=2")
    said = command(own, "train", "--plugin", "glee", "--own", "coco.yaml", *COMMON, *short, "--out", "run")
    assert "the category 'warehouse', which an export put above all others and no object is of, is left out" in said
    said = command(own, "eval", "run", "--categories", "--device", "cpu")
    assert all(name in said for name in NAMES)
    told = command(
        own, "predict", "run", str(picture), "--threshold", "0", "--top", "9", "--out", "drawn", "--device", "cpu"
    )
    assert any(f"{name} 0." in told for name in NAMES)
    command(own, "export", "run", "--format", "hf", "--out", "export")

    checkpoint = own / "run" / "checkpoints" / "step-00000004"
    assert json.loads((checkpoint / "state.json").read_text())["class_names"] == NAMES
    [drawn] = own.glob("drawn/*.json")
    assert json.loads(drawn.read_text())["names"] == NAMES
    assert drawn.with_suffix(".png").stat().st_size > picture.stat().st_size // 4
    evaluated = own / "run" / "evals" / "shelves_val-step-4"
    assert list(json.loads((evaluated / "metrics.json").read_text())["categories"]["bbox"]) == NAMES
    found = json.loads((evaluated / "predictions.json").read_text())
    assert {one["category_name"] for one in found} <= set(NAMES)
    assert found
    card = (own / "export" / "README.md").read_text()
    assert "1. warehouse worker\n2. lift truck\n3. pallet jack" in card
    assert 'names=["warehouse worker", "lift truck"]' in card
    for target in ("run", "run/checkpoints/step-00000004", "run/checkpoints/last", "run/checkpoints/best", "export"):
        told = mmcore.load(own / target, device="cpu").predict(picture, threshold=0, top=9).json()
        assert told["names"] == NAMES, target
        assert told["objects"] == json.loads(drawn.read_text())["objects"], target


@pytest.mark.parametrize("kind", ["llava", "messages"])
def test_a_language_model_answers_in_its_users_words(own: Path, kind: str) -> None:
    pytest.importorskip("mmcore_visper")
    pictures = sorted(map(str, own.glob("train/*.jpg")))
    short = ("--set", "steps=60", "--set", "global_batch=4", "--set", "micro_batch=4", "--set", "optim.lr=0.003")
    command(own, "train", "--plugin", "visper", "--own", f"{kind}.yaml", *COMMON, *short, "--out", kind)
    said = command(own, "eval", kind, "--device", "cpu")
    assert "shelves_val  6 images" in said
    question = ("--prompt", "What is here?", "--device", "cpu", "--out", f"{kind}-drawn")
    command(own, "predict", kind, *pictures, *question)
    command(own, "export", kind, "--format", "hf", "--out", f"{kind}-export")

    expected = [answer(objects) for objects in json_objects(own)]
    drawn = [json.loads(Path(own, f"{kind}-drawn", f"{Path(name).stem}.json").read_text()) for name in pictures]
    assert all(Path(own, f"{kind}-drawn", f"{Path(name).stem}.png").is_file() for name in pictures)
    assert [one["text"] for one in drawn] == expected
    assert "- shelves: " in (own / f"{kind}-export" / "README.md").read_text()
    for target in (kind, f"{kind}/checkpoints/last", f"{kind}-export"):
        model = mmcore.load(own / target, device="cpu")
        assert model.chat(pictures[0], "What is here?") == expected[0], target


def json_objects(own: Path) -> list[list[str]]:
    """What is on the training pictures, by their names in order."""
    told = json.loads((own / "train" / "_annotations.coco.json").read_text())
    files = {image["id"]: image["file_name"] for image in told["images"]}
    on_them: Objects = {name: [] for name in sorted(files.values())}
    for one in told["annotations"]:
        on_them[files[one["image_id"]]].append(NAMES[one["category_id"] - 1])
    return list(on_them.values())
