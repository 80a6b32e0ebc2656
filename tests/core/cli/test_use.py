"""`mmcore predict` and `mmcore eval` with a small local family in place of a trained run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from mmcore.cli import cli
from mmcore.cli.evaluate import _show, as_validation, wanted_sets
from mmcore.contract.model import Model
from mmcore.contract.protocols import Datasets, DataSource
from mmcore.contract.recipe import DATA_FIELDS, AdamW, Constant, Data, Source, Stage, Validation
from mmcore.contract.values import Batch, Draw, Prediction, Sample
from mmcore.errors import UsageError
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.geometry import masks
from mmcore.runs import build, validation_loss
from mmcore.runs import opened as opening
from mmcore.runs.settings import Settings
from PIL import Image

STAGE = Stage(
    number=1,
    name="one",
    title="One",
    origin="test",
    steps=1,
    global_batch=1,
    micro_batch=1,
    data=Data(sources={"coco": Source(weight=1.0, format="COCO instances", annotations="train.json", images="train")}),
    optim=AdamW(lr=1e-3),
    schedule=Constant(),
    validation={"coco_val": Validation(), "other_val": Validation()},
)


class Kites(Model):
    """Finds one thing in the middle of every image, sure of it to 0.8."""

    def prepare(self, images: list[np.ndarray], *, names: Sequence[str] | None, prompt: str | None) -> Batch:
        self.name = prompt or (names or ["kite"])[0]
        self.size = images[0].shape[:2]
        return Batch("predict", (Draw("predict", 0, 0),), {})

    def predict(self, batch: Batch) -> list[Prediction]:
        height, width = getattr(self, "size", (100, 100))
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor([width, height, width, height])
        found = masks.encode(np.ones((height, width), np.uint8))
        one = (box, torch.tensor([0.8]), torch.tensor([0]), (getattr(self, "name", "kite"),), [found])
        return [Prediction(draw.position + 1, (height, width), *one) for draw in batch.draws]


class Squares(DataSource):
    """Two images of 100 x 100 with one object in the middle."""

    name, fingerprint = "coco_val", "x"

    def __len__(self) -> int:
        return 2

    def aspect_groups(self) -> None:
        return None

    def sample(self, draw: Draw) -> Sample:
        image = torch.zeros(3, 100, 100, dtype=torch.uint8)
        return Sample(
            image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), None, draw, draw.position + 1, (100, 100)
        )


def collate(samples: Sequence[Sample], seed: int) -> Batch:
    return Batch("coco_val", tuple(sample.draw for sample in samples), {})


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that `open_model` opens as Kites, with two annotated images."""
    folder = tmp_path / "runs/kites"
    folder.mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in (1, 2)]
    square = [[0, 0, 100, 0, 100, 100, 0, 100]]
    found = [
        {"id": i, "image_id": i, "category_id": 3, "iscrowd": 0, "bbox": [25, 25, 50, 50], "area": 2500}
        | {"segmentation": square}
        for i in (1, 2)
    ]
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": [{"id": 3, "name": "kite"}]}))
    settings = Settings(plugin="kites", variant="tiny", stage=STAGE, data=str(tmp_path), device="cpu", workers=0)
    model = opening.OpenedModel(Kites(), settings, None, folder, 12, "step-12")  # type: ignore[arg-type]
    datasets = Datasets(
        {"coco_val": Squares(), "other_val": Squares()},
        {"coco_val": collate, "other_val": collate},
        {name: (lambda: CocoEvaluator(path)) for name in ("coco_val", "other_val")},
    )
    monkeypatch.setattr(opening, "open_model", lambda target, checkpoint="last", **_: model, raising=False)
    for module in (build, validation_loss):
        monkeypatch.setattr(module, "build_datasets", lambda family, settings, split: datasets)
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 60), (10, 200, 30)).save(path)
    return path


def test_predict_writes_json_and_picture_into_the_run(opened: Path, photo: Path) -> None:
    result = invoke("predict", opened, photo, "--names", "red kite, dog")
    assert result.exit_code == 0, result.output
    assert "red kite 0.80" in result.output
    answer = json.loads((opened / "predictions/photo.json").read_text())
    assert answer["names"] == ["red kite", "dog"]
    assert answer["objects"][0]["box_xyxy"] == [20, 15, 60, 45]
    assert (opened / "predictions/photo.png").exists()


def test_predict_prints_json_for_other_programs(opened: Path, photo: Path, tmp_path: Path) -> None:
    result = invoke("predict", opened, photo, "--prompt", "the dog", "--out", tmp_path / "x", "--json")
    (answer,) = json.loads(result.output)
    assert answer["prompt"] == answer["objects"][0]["name"] == "the dog"
    assert Path(answer["picture"]).parent == tmp_path / "x"


def test_predict_says_when_nothing_scores_enough(opened: Path, photo: Path) -> None:
    assert "nothing scores 0.90" in invoke("predict", opened, photo, "--threshold", "0.9").output


def test_one_damaged_image_does_not_lose_the_others(opened: Path, photo: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:4000])
    result = invoke("predict", opened, damaged, photo)
    assert "photo.png: kite" in result.output
    assert "1 of 2 images could not be read" in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--names", "a", "--prompt", "b"],
        ["--names", "a", "--example", "1,2,3,4"],
        ["--names", " , "],
        ["--prompt", " "],
        ["--threshold", "2"],
    ],
)
def test_wrong_usage_of_predict_exits_with_2(opened: Path, photo: Path, arguments: list[str]) -> None:
    assert invoke("predict", opened, photo, *arguments).exit_code == 2


def test_eval_prints_percent_and_writes_fractions(opened: Path) -> None:
    result = invoke("eval", opened, "--on", "coco_val", "--categories")
    assert result.exit_code == 0, result.output
    assert "100.0" in result.output
    assert "kite" in result.output
    record = json.loads((opened / "evals/coco_val-step-12/metrics.json").read_text())
    assert record["metrics"]["bbox/AP"] == record["metrics"]["segm/AP50"] == pytest.approx(1.0)
    predictions = json.loads((opened / "evals/coco_val-step-12/predictions.json").read_text())
    assert {one["category_id"] for one in predictions} == {3}


def test_eval_takes_every_set_of_the_recipe_and_a_limit(opened: Path) -> None:
    result = invoke("eval", opened, "--limit", "1", "--json")
    report = json.loads(result.stdout)
    assert list(report["sets"]) == ["coco_val", "other_val"]
    assert report["sets"]["coco_val"]["images"] == 1
    assert report["step"] == 12


def test_a_second_evaluation_gets_its_own_folder(opened: Path) -> None:
    for _ in range(2):
        invoke("eval", opened, "--on", "coco_val")
    assert sorted(path.name for path in (opened / "evals").iterdir()) == ["coco_val-step-12", "coco_val-step-12-2"]


def test_what_an_evaluation_does_not_read_is_refused(opened: Path) -> None:
    result = invoke("eval", opened, "--on", "coco_val", "--set", "optim.lr=1")
    assert isinstance(result.exception, UsageError) or result.exit_code == 2
    assert "does not read optim.lr" in str(result.exception) + result.output
    assert not (opened / "evals").exists()


def test_training_sources_can_be_evaluated_as_they_lie_on_disk() -> None:
    found = wanted_sets(STAGE, "train", ["coco"])
    assert found == {"coco": Validation(annotations="train.json", images="train", format="COCO instances")}


@pytest.mark.parametrize(("split", "name", "near"), [("val", "coco_vla", "coco_val"), ("train", "cooc", "coco")])
def test_an_unknown_set_names_the_nearest(split: str, name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}'"):
        wanted_sets(STAGE, split, [name])


def test_a_training_source_is_judged_as_the_same_data() -> None:
    given = {"format": "COCO boxes", "annotations": "a.json", "images": "b", "options": {"task": "coco"}, "root": "/c"}
    given |= {"tasks": ("detect",), "classes": {"cat": "dog"}, "class_names": ("dog",)}
    assert as_validation(Source(weight=2.0, group="g", **given)) == Validation(**given)
    assert set(given) == set(DATA_FIELDS)


def test_the_train_split_must_be_named() -> None:
    with pytest.raises(UsageError, match="--on"):
        wanted_sets(STAGE, "train", [])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"images": 3, "records": 3}, "3 images,"),
        ({"images": 3, "records": 5}, "5 records, 3 images,"),
        ({"images": 3, "records": 3, "frames": 7}, "3 videos of 7 frames,"),
    ],
)
def test_a_table_says_what_was_seen(capsys: pytest.CaptureFixture[str], counts: dict[str, int], said: str) -> None:
    record = {"seconds": 0.5, "left_out": [], "before": {}, "categories": {}, "folder": "f", **counts}
    _show("coco_val", {"AP": 0.5}, record, categories=False)
    assert f"coco_val  {said} 0 s" in capsys.readouterr().out


def test_a_table_says_why_it_holds_nothing_but_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"images": 1, "records": 1, "seconds": 0.5, "left_out": [], "before": {}, "categories": {}, "folder": "f"}
    for metrics, empty in (({}, True), ({"loss": 1.5}, True), ({"loss": 1.5, "accuracy": 0.5}, False)):
        _show("coco_val", metrics, record, categories=False)
        said = capsys.readouterr().out
        assert ("no metric is defined: these images have no objects to find, or only crowds" in said) == empty
        assert ("1.5" in said) == bool(metrics)
