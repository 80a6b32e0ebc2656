"""Objects without their classes: renaming changes nothing, and all classes as one give the same by COCO's protocol."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.values import Prediction
from mmcore.data.formats.registry import Formats
from mmcore.errors import DataError
from mmcore.evaluate.class_agnostic import ClassAgnosticEvaluator
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.protocols import protocol

SIZE, CLASSES = 400, 3


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[Path, Path, list[Prediction]]:
    """A file of three classes, the same file with one, and detections near and off its objects, 150 an image."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for image in range(1, 5):
        boxes = np.concatenate([rng.uniform(0, 300, (12, 2)), rng.uniform(20, 100, (12, 2))], 1).round(1)
        for box in boxes:
            one = {"id": len(annotations) + 1, "image_id": image, "bbox": box.tolist(), "area": float(box[2] * box[3])}
            annotations.append(one | {"category_id": int(rng.integers(1, CLASSES + 1)), "iscrowd": 0})
        near = boxes[rng.integers(0, 12, 40)] + rng.normal(0, 6, (40, 4))
        far = np.concatenate([rng.uniform(0, 300, (110, 2)), rng.uniform(20, 100, (110, 2))], 1)
        found = torch.from_numpy(np.concatenate([near, far])).clamp(min=1).float()
        found[:, 2:] += found[:, :2]
        scores, labels = torch.from_numpy(rng.random(150)).float(), torch.from_numpy(rng.integers(0, CLASSES, 150))
        predictions.append(Prediction(image, (SIZE, SIZE), boxes_xyxy=found, scores=scores, labels=labels))
    images = [{"id": image, "file_name": f"{image}.jpg", "height": SIZE, "width": SIZE} for image in range(1, 5)]
    files = []
    for name, classes in (("three", CLASSES), ("one", 1)):
        told = [one | {"category_id": min(one["category_id"], classes)} for one in annotations]
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"images": images, "annotations": told, "categories": categories}))
    return files[0], files[1], predictions


def judged(evaluator: CocoEvaluator, predictions: list[Prediction]) -> dict[str, float]:
    evaluator.update(None, predictions)  # type: ignore[arg-type]
    return evaluator.summarise(json.loads(json.dumps(evaluator.state())))


def named(predictions: list[Prediction], labels: torch.Tensor) -> list[Prediction]:
    return [
        Prediction(one.image_id, one.size, boxes_xyxy=one.boxes_xyxy, scores=one.scores, labels=labels)
        for one in predictions
    ]


def test_classes_count_as_one(scenes: tuple[Path, Path, list[Prediction]]) -> None:
    three, one, predictions = scenes
    found = judged(ClassAgnosticEvaluator(three, iou_types=("bbox",)), predictions)
    single = named(predictions, torch.zeros(150, dtype=torch.int64))
    assert found == judged(
        CocoEvaluator(one, iou_types=("bbox",), max_detections=ClassAgnosticEvaluator.LIMITS), single
    )
    assert 0 < found["bbox/AR@10"] < found["bbox/AR@100"] < found["bbox/AR@1000"] < 1
    with_classes = judged(
        CocoEvaluator(three, iou_types=("bbox",), max_detections=ClassAgnosticEvaluator.LIMITS), predictions
    )
    assert found["bbox/AR@1000"] > with_classes["bbox/AR@1000"]


def test_a_name_that_the_file_has_no_category_for_finds_objects_too(
    scenes: tuple[Path, Path, list[Prediction]],
) -> None:
    three, _, predictions = scenes
    strange = named(predictions, torch.full((150,), 3))
    evaluator = ClassAgnosticEvaluator(three, iou_types=("bbox",), category_ids=[1, 2, 3, -1])
    assert judged(evaluator, strange) == judged(ClassAgnosticEvaluator(three, iou_types=("bbox",)), predictions)


def test_one_label_may_stand_for_every_category(scenes: tuple[Path, Path, list[Prediction]]) -> None:
    three, one, predictions = scenes
    single = named(predictions, torch.zeros(150, dtype=torch.int64))
    evaluator = ClassAgnosticEvaluator(three, iou_types=("bbox",), category_ids=[1], same_as={2: 1, 3: 1})
    assert judged(evaluator, single) == judged(ClassAgnosticEvaluator(one, iou_types=("bbox",)), single)


def test_it_is_chosen_by_name_for_objects_of_images_alone() -> None:
    formats = Formats.of(())
    for name in ("COCO instances", "LVIS v1", "YOLO boxes"):
        assert protocol(formats[name], "here", "class_agnostic") is ClassAgnosticEvaluator
    assert protocol(formats["LVIS v1"], "here", "lvis") is protocol(formats["LVIS v1"], "here")
    for name in ("RefCOCO-COCO", "YouTube-VIS", "questions"):
        with pytest.raises(DataError, match="is not judged by 'class_agnostic'"):
            protocol(formats[name], "here", "class_agnostic")
