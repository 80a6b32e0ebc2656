import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.values import Prediction
from mmcore.evaluate.refcoco import RefCocoEvaluator
from mmcore.geometry import masks
from safetensors.torch import load_file

SHARED = Path(os.environ.get("MMCORE_SHARED", Path(__file__).parents[4] / "shared"))


def square(x: int, y: int, side: int) -> masks.Rle:
    bitmap = np.zeros((40, 60), np.uint8)
    bitmap[y : y + side, x : x + side] = 1
    return masks.encode(bitmap)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Four entries, each with a 10 pixel square at (5, 5)."""
    images = [{"id": i, "file_name": "a.jpg", "height": 40, "width": 60, "expressions": ["x"]} for i in range(1, 5)]
    found = [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [5, 5, 10, 10]}
        | {"segmentation": square(5, 5, 10)}
        for i in range(1, 5)
    ]
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": [{"id": 1, "name": "object"}]}))
    return path


def one(image_id: int, box: list[float], rle: masks.Rle, score: float = 0.5) -> Prediction:
    boxes, scores = torch.tensor([box], dtype=torch.float32), torch.tensor([score])
    return Prediction(image_id, (40, 60), boxes, scores, torch.tensor([0]), masks=[rle])


def metrics_of(path: Path, predictions: list[Prediction]) -> dict[str, float]:
    evaluator = RefCocoEvaluator(path)
    evaluator.update(None, predictions)  # type: ignore[arg-type]
    return evaluator.summarise(json.loads(json.dumps(evaluator.state())))


def test_an_overlap_of_exactly_one_half_is_a_miss(annotations: Path) -> None:
    half = one(1, [5, 5, 15, 10], square(5, 5, 10))
    more = one(2, [5, 5, 15, 10.5], square(5, 5, 10))
    metrics = metrics_of(annotations, [half, more])
    assert metrics["bbox/P@0.5"] == 0.5
    assert metrics["bbox/P@0.6"] == 0.0


def test_overall_iou_weighs_by_pixels_and_mean_iou_by_expression(annotations: Path) -> None:
    box = [5.0, 5.0, 15.0, 15.0]
    metrics = metrics_of(annotations, [one(1, box, square(5, 5, 10)), one(2, box, square(5, 5, 20))])
    assert metrics["segm/oIoU"] == pytest.approx((100 + 100) / (100 + 400))
    assert metrics["segm/mIoU"] == pytest.approx((1.0 + 0.25) / 2)


def test_an_expression_without_a_detection_is_a_miss(annotations: Path) -> None:
    nothing = Prediction(2, (40, 60), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), masks=[])
    metrics = metrics_of(annotations, [one(1, [5, 5, 15, 15], square(5, 5, 10)), nothing])
    assert metrics["bbox/P@0.5"] == 0.5
    assert metrics["segm/oIoU"] == pytest.approx(0.5)
    assert metrics["segm/mIoU"] == pytest.approx(0.5)


def test_only_the_best_of_several_detections_counts(annotations: Path) -> None:
    several = Prediction(
        1,
        (40, 60),
        torch.tensor([[30.0, 5, 40, 15], [5, 5, 15, 15]]),
        torch.tensor([0.2, 0.6]),
        torch.tensor([0, 0]),
        masks=[square(30, 5, 10), square(5, 5, 10)],
    )
    metrics = metrics_of(annotations, [several])
    assert metrics["bbox/P@0.9"] == metrics["segm/oIoU"] == 1.0


def test_an_entry_seen_twice_counts_once(annotations: Path) -> None:
    good, bad = one(1, [5, 5, 15, 15], square(5, 5, 10)), one(2, [30, 5, 40, 15], square(30, 5, 10))
    assert metrics_of(annotations, [good, good, good, bad]) == metrics_of(annotations, [bad, good])


def test_results_are_in_coco_form_with_the_one_category(annotations: Path) -> None:
    evaluator = RefCocoEvaluator(annotations)
    evaluator.update(None, [one(3, [5, 5, 15, 15], square(5, 5, 10), 0.25)])  # type: ignore[arg-type]
    expected = {
        "image_id": 3,
        "category_id": 1,
        "score": 0.25,
        "bbox": [5, 5, 10, 10],
        "segmentation": square(5, 5, 10),
    }
    assert evaluator.results(evaluator.state()) == [expected]


def test_metrics_equal_the_published_evaluation() -> None:
    folder = SHARED / "goldens/glee/eval_refcoco"
    if not folder.is_dir():
        pytest.skip("needs the golden case at ../shared/goldens/glee/eval_refcoco")
    case = json.loads((folder / "case.json").read_text())
    tensors = load_file(folder / "tensors.safetensors")
    images = json.loads((folder / "instances_val.json").read_text())["images"]
    predictions = [
        Prediction(
            image["id"],
            (image["height"], image["width"]),
            tensors[f"pred.{i}.box"],
            tensors[f"pred.{i}.score"],
            masks=case["masks_rle"][f"pred.{i}.mask"],
        )
        for i, image in enumerate(images)
    ]
    found = metrics_of(folder / "instances_val.json", predictions)
    published = {f"{kind}/{name}": value / 100 for kind, one in case["results"].items() for name, value in one.items()}
    assert {name: found[name] for name in published} == pytest.approx(published, abs=1e-11)
