"""The four commands of docs/own-data.md, as they stand there, on a COCO file with names of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import mmcore
import pytest
from mmcore.data.formats import miniature
from mmcore.runs.build import build_datasets
from mmcore.runs.settings import Request, settle
from mmcore.runs.validation_loss import learnable_sets

Run = Callable[..., tuple[int, str]]
PAGE = Path(__file__).parents[3] / "docs" / "own-data.md"
TINY = [
    "--variant",
    "tiny",
    "--init",
    "random",
    "--workers",
    "0",
    "--set",
    "steps=2",
    "--set",
    "data.transform.max_size=96",
]


@pytest.fixture
def shelves(tmp_path: Path) -> Path:
    """`shelves.yaml` and what it names, in the folder where commands run."""
    content = miniature.coco()
    for category in content["categories"]:
        category["name"] = f"my {category['name']}"
    twice = {"id": 99, "name": f" {content['categories'][0]['name'].upper()}"}
    content["categories"].append(twice)
    content["annotations"][0]["category_id"] = 99 if content["annotations"][0]["category_id"] == 1 else 1
    for name in ("train", "val"):
        miniature.write_json(tmp_path / "photos" / f"{name}.json", content)
    miniature.write_pictures(tmp_path / "photos" / "images")
    block = re.search(r"```yaml\n(# shelves\.yaml\n.*?)```", PAGE.read_text(), re.S)
    assert block is not None
    (tmp_path / "shelves.yaml").write_text(block.group(1) + "before: true\n")
    return tmp_path


def commands() -> list[list[str]]:
    """The first block of commands on the page."""
    block = re.search(r"Then:\n\n```\n(.*?)```", PAGE.read_text(), re.S)
    assert block is not None
    return [line.split()[1:] for line in block.group(1).splitlines()]


def test_four_commands_lead_from_a_coco_file_to_a_model_that_answers_with_its_names(run: Run, shelves: Path) -> None:
    check, train, judge, export = commands()
    code, said = run(*check, "--variant", "tiny", "--workers", "0")
    assert code == 0, said
    assert "no problem" in said
    code, said = run(*train, *TINY)
    assert code == 0, said
    code, said = run(*judge, "--workers", "0")
    assert code == 0, said
    assert all(word in said for word in ("shelves_val", "at the start", "change", "loss")), said
    left = {path.name for path in (shelves / "runs" / "shelves" / "pictures" / "shelves_val").iterdir()}
    assert {"step-00000000.jpg", "step-00000002.jpg"} <= left
    [judged] = (shelves / "runs" / "shelves" / "evals").glob("shelves_val-step-*")
    assert {"strip.jpg", "confusion.png", "precision-recall.png"} <= {path.name for path in judged.iterdir()}
    names = {one["category_name"] for one in json.loads((judged / "predictions.json").read_text())}
    assert names <= {f"my {kind}" for kind in miniature.kinds()}
    code, said = run("report", "runs/shelves")
    told = ("at the start", "predictions over time", "newest predictions", "step-00000002.jpg", "confusion")
    assert all(word in said for word in told), said
    code, said = run(*export)
    assert code == 0, said

    classes = json.loads((shelves / "shelves-model" / "config.json").read_text())["mmcore"]["stage"]["class_names"]
    assert classes == [f"my {kind}" for kind in miniature.kinds()]
    assert len({name.strip().lower() for name in classes}) == len(classes)
    card = (shelves / "shelves-model" / "README.md").read_text()
    assert all(f". {name}\n" in card for name in classes)
    picture = shelves / "photos" / "images" / miniature.file_name(miniature.scenes()[0])
    code, said = run("predict", "shelves-model", picture, "--threshold", "0", "--json")
    assert code == 0, said
    [answer] = json.loads(said[said.index("[") : said.rindex("]") + 1])
    assert answer["names"] == classes
    assert {one["name"] for one in answer["objects"]} <= set(classes)
    model = mmcore.load(shelves / "shelves-model")
    assert set(model.predict(picture).prediction.names or ()) <= set(classes)


def test_a_source_under_a_name_of_its_own_brings_its_classes_and_a_checkpoint_is_a_start(
    run: Run, shelves: Path
) -> None:
    mine = "{format: COCO instances, annotations: train.json, images: images, weight: 1}"
    joint = ["train", "--plugin", "glee", "--stage", "joint", "--data", "photos", "--sources", "mine", *TINY]
    joint += ["--set", f"data.sources.mine={mine}", "--set", "validation={}", "--set", "best_metric=null"]
    code, said = run(*joint, "--out", "first")
    assert code == 0, said
    joint[joint.index("random")] = "first/checkpoints/last"
    code, said = run(*joint, "--out", "second")
    assert code == 0, said
    assert "weights from first/checkpoints/last: 347 tensors filled, none new" in said
    state = json.loads((shelves / "second" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["class_names"] == [f"my {kind}" for kind in miniature.kinds()]
    picture = shelves / "photos" / "images" / miniature.file_name(miniature.scenes()[0])
    answer = mmcore.load(shelves / "second" / "checkpoints" / "last").predict(picture, threshold=0).json()
    assert answer["names"] == state["class_names"]
    code, said = run("train", "--resume", "second/checkpoints/step-00000002")
    assert code == 1
    assert "give the run: second" in said
    (shelves / "second" / "checkpoints" / "step-00000002").rename(shelves / "alone")
    code, said = run("eval", "alone")
    assert code == 1
    assert "is a checkpoint without its run" in said


def test_added_data_bring_their_classes_beside_those_of_the_recipe_and_each_is_taught_its_own(
    shelves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelves)
    monkeypatch.setenv("MMCORE_CACHE", str(shelves / "cache"))
    family, settings, _ = settle(Request("glee", "joint", demo=True, workers=0, add=("shelves.yaml:2",)))
    mine = tuple(f"my {kind}" for kind in miniature.kinds())
    names = settings.stage.class_names
    assert names[-len(mine) :] == mine
    data = build_datasets(family, settings, "train")
    assert data.collate["shelves"].vocabulary == mine
    [judged] = learnable_sets(family, settings, ["shelves_val"]).values()
    assert judged.collate["shelves_val"].vocabulary == mine
    assert set(names[: -len(mine)]) <= set(data.collate["coco"].vocabulary)
    assert not set(data.collate["coco"].vocabulary) & set(mine)


def test_a_class_that_stands_twice_is_one_class_in_training_and_evaluation(run: Run, shelves: Path) -> None:
    code, said = run("plan", "--plugin", "glee", "--variant", "tiny", "--own", "shelves.yaml", "--json")
    assert code == 0, said
    names = json.loads(said[said.index("{") : said.rindex("}") + 1])["recipe"]["class_names"]
    assert len(names) == len(miniature.kinds())


def test_own_data_that_a_detector_cannot_learn_from_are_refused(run: Run, shelves: Path) -> None:
    miniature.write_lines(shelves / "chat.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}] * 3)
    (shelves / "shelves.yaml").write_text("name: chats\ntrain: chat.jsonl\n")
    code, said = run("train", "--plugin", "glee", "--own", "shelves.yaml", *TINY)
    assert code == 1
    assert "messages, 3 records) serves converse; learned are detect, segment, refer, ground" in said
    assert not (shelves / "runs").exists()
