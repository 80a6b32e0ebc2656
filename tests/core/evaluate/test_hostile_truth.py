"""Ground truth as somebody's tool wrote it: pycocotools gets clean values or nothing at all."""

import json
from pathlib import Path

import pytest
import torch
from mmcore.contract.values import Prediction
from mmcore.data.formats.plain_values import whole
from mmcore.errors import DataError
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.geometry import masks
from pycocotools import mask as coco_mask

BOX = [0.0, 0.0, 5.0, 3.0]
WHOLE = {"size": [3, 5], "counts": [0, 15]}


def judged(folder: Path, **changes: object) -> dict[str, float]:
    """The metrics of a perfect detector on one image with one object that a tool has written its own way."""
    annotation = {"id": 0, "image_id": 1, "category_id": 1, "bbox": BOX, "segmentation": WHOLE, **changes}
    truth = {"images": [{"id": 1, "height": 3, "width": 5}], "categories": [{"id": 1, "name": "door"}]}
    path = folder / "val.json"
    path.write_text(json.dumps({**truth, "annotations": [annotation]}))
    evaluator = CocoEvaluator(path, iou_types=("bbox", "segm"))
    found = Prediction(
        image_id=1, size=(3, 5), boxes_xyxy=torch.tensor([[0.0, 0.0, 5.0, 3.0]]), scores=torch.tensor([0.9]),
        labels=torch.tensor([0]), masks=[masks.compress(WHOLE)],
    )  # fmt: skip
    evaluator.update(None, [found])
    return evaluator.summarise(evaluator.state())


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": None},
        {"iscrowd": False},
        {"iscrowd": "0"},
        {"area": None},
        {"area": "15"},
        {"area": 15.0, "iscrowd": 0.0},
    ],
)
def test_a_perfect_detector_scores_one_however_flags_areas_and_ids_are_written(tmp_path: Path, changes: dict) -> None:
    assert judged(tmp_path, **changes)["bbox/AP"] == pytest.approx(1.0)
    assert judged(tmp_path, **changes)["segm/AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": {"size": [3, 5], "counts": "0☐"}},  # pycocotools would read it as run lengths
        {"bbox": None},
        {"bbox": [0, 0, 5]},
        {"bbox": [0, 0, 5, "3"]},
        {"bbox": [0, 0, 5, float("nan")]},
        {"bbox": [0, 0, 5, 10**400]},
        {"iscrowd": "perhaps"},
        {"iscrowd": [0]},
        {"segmentation": {"size": [3, 5], "counts": "0☐"}},
        {"segmentation": {"size": [3, 5], "counts": "0P"}},
    ],
)
def test_what_is_no_box_flag_or_mask_is_refused_with_its_annotation(
    tmp_path: Path, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    iou = coco_mask.iou

    def boxes_only(found: list, truth: list, crowd: list) -> object:
        assert all(isinstance(one, list) for one in [*found, *truth]), "C was given run lengths"
        return iou(found, truth, crowd)

    monkeypatch.setattr(coco_mask, "iou", boxes_only)
    with pytest.raises(DataError) as error:
        judged(tmp_path, **changes)
    assert "annotation 0" in str(error.value)


def test_a_prediction_with_malformed_run_lengths_is_refused(tmp_path: Path) -> None:
    judged(tmp_path)
    evaluator = CocoEvaluator(tmp_path / "val.json", iou_types=("segm",))
    hostile = {"image_id": 1, "boxes": [BOX], "scores": [0.9], "labels": [0]}
    with pytest.raises(DataError, match="image 1"):
        evaluator.summarise([{**hostile, "masks": [{"size": [3, 5], "counts": "0☐"}]}])


@pytest.mark.parametrize("ids", [("a7", 1), ("0012ab", "345612"), (2, 1)])
def test_images_are_judged_whatever_their_ids_are(tmp_path: Path, ids: tuple) -> None:
    """Hashes of which some are digits only: text and numbers in one file."""
    one = {"category_id": 1, "bbox": BOX, "area": 15}
    truth = {
        "images": [{"id": id_, "height": 3, "width": 5} for id_ in ids],
        "annotations": [{"id": n, "image_id": id_, **one} for n, id_ in enumerate(ids)],
        "categories": [{"id": 1, "name": "door"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    evaluator = CocoEvaluator(tmp_path / "val.json", iou_types=("bbox",))
    boxes, scores = torch.tensor([[0.0, 0.0, 5.0, 3.0]]), torch.tensor([0.9])
    found = [
        Prediction(image_id=whole(id_), size=(3, 5), boxes_xyxy=boxes, scores=scores, labels=torch.tensor([0]))
        for id_ in ids
    ]
    evaluator.update(None, found)
    assert evaluator.summarise(evaluator.state())["bbox/AP"] == pytest.approx(1.0)


def test_where_no_area_is_stated_it_is_that_of_the_mask(tmp_path: Path) -> None:
    """A thin shape in a large box is a small object, as in COCO's own files."""
    thin = [[0, 0, 99, 0, 99, 1, 0, 1], [0, 0, 1, 0, 1, 99, 0, 99]]
    box = [0, 0, 99, 99]
    for stated, size in ((None, "s"), (198, "s"), (9801, "l")):
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": thin, "area": stated}
        truth = {"images": [{"id": 1, "height": 100, "width": 100}], "categories": [{"id": 1, "name": "door"}]}
        (tmp_path / "val.json").write_text(json.dumps({**truth, "annotations": [annotation]}))
        evaluator = CocoEvaluator(tmp_path / "val.json", iou_types=("bbox",))
        assert {f"bbox/AP{size}"} == {
            name for name in evaluator.summarise([{"image_id": 1, "boxes": [], "scores": [], "labels": []}])
            if name in ("bbox/APs", "bbox/APm", "bbox/APl")
        }  # fmt: skip
