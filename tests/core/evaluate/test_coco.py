import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.values import Prediction
from mmcore.errors import DataError, MissingDataError, ShapeError
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.geometry import masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SHARED = Path(os.environ.get("MMCORE_SHARED", Path(__file__).parents[4] / "shared"))


def box_mask(box: list[float], height: int, width: int) -> masks.Rle:
    bitmap = np.zeros((height, width), np.uint8)
    x, y, w, h = (round(value) for value in box)
    bitmap[y : y + h, x : x + w] = 1
    return masks.encode(bitmap)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Three images, two categories with ids 7 and 3, one crowd, one image without objects."""
    boxes = {1: [(7, [10, 10, 40, 40]), (3, [60, 20, 20, 30])], 2: [(3, [5, 5, 30, 30])], 3: []}
    found = []
    for image_id, objects in boxes.items():
        for category, box in objects:
            x, y, w, h = box
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            found.append(
                {"id": len(found) + 1, "image_id": image_id, "category_id": category, "bbox": box, "area": w * h}
                | {"iscrowd": 0, "segmentation": polygon}
            )
    crowd = {"size": [100, 100], "counts": [5000, 2000, 3000]}
    found.append({"id": 9, "image_id": 2, "category_id": 3, "bbox": [50, 0, 20, 100], "area": 2000, "iscrowd": 1})
    found[-1]["segmentation"] = crowd
    path = tmp_path / "instances.json"
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in boxes]
    categories = [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": categories}))
    return path


def prediction(image_id: int, objects: list[tuple[int, list[float], float]], size: int = 100) -> Prediction:
    """Objects as (label, xywh, score), with masks that fill their boxes."""
    boxes = torch.tensor([box for _, box, _ in objects]).float().reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Prediction(
        image_id=image_id,
        size=(size, size),
        boxes_xyxy=boxes,
        scores=torch.tensor([score for _, _, score in objects]),
        labels=torch.tensor([label for label, _, _ in objects], dtype=torch.long),
        masks=[box_mask(box, size, size) for _, box, _ in objects],
    )


PERFECT = [
    prediction(1, [(1, [10, 10, 40, 40], 0.9), (0, [60, 20, 20, 30], 0.8)]),
    prediction(2, [(0, [5, 5, 30, 30], 0.7)]),
    prediction(3, []),
]


def metrics_of(evaluator: CocoEvaluator, predictions: list[Prediction]) -> dict[str, float]:
    evaluator.update(None, predictions)  # type: ignore[arg-type]
    return evaluator.summarise(json.loads(json.dumps(evaluator.state())))


def test_perfect_predictions_score_one_and_labels_follow_ascending_dataset_ids(annotations: Path) -> None:
    evaluator = CocoEvaluator(annotations)
    metrics = metrics_of(evaluator, PERFECT)
    for name in ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP75", "bbox/AR@100"):
        assert metrics[name] == pytest.approx(1.0), name
    assert evaluator.category_ap["bbox"] == pytest.approx({"three": 1.0, "seven": 1.0})


def test_no_predictions_give_zero_not_an_error(annotations: Path) -> None:
    metrics = metrics_of(CocoEvaluator(annotations), [prediction(i, []) for i in (1, 2, 3)])
    assert metrics["bbox/AP"] == metrics["segm/AP50"] == 0.0


def test_a_size_without_objects_has_no_metric(annotations: Path) -> None:
    metrics = metrics_of(CocoEvaluator(annotations), PERFECT)
    assert "bbox/APl" not in metrics
    assert "bbox/APs" in metrics
    assert "bbox/APm" in metrics


def test_images_seen_by_two_processes_count_once(annotations: Path) -> None:
    alone = metrics_of(CocoEvaluator(annotations), [*PERFECT[:2], prediction(3, [(0, [1, 1, 5, 5], 0.95)])])
    parts = [CocoEvaluator(annotations) for _ in range(2)]
    parts[0].update(None, [PERFECT[0], prediction(3, [(0, [1, 1, 5, 5], 0.95)])])  # type: ignore[arg-type]
    parts[1].update(None, [PERFECT[1], PERFECT[0], prediction(3, [(0, [1, 1, 5, 5], 0.95)])])  # type: ignore[arg-type]
    assert parts[0].summarise(parts[1].state() + parts[0].state()) == alone
    assert alone["bbox/AP"] < 1.0


def test_a_detection_inside_a_crowd_is_no_mistake(annotations: Path) -> None:
    inside = [(0, [5, 5, 30, 30], 0.7), (0, [52, 10, 15, 40], 0.99)]
    metrics = metrics_of(CocoEvaluator(annotations), [PERFECT[0], prediction(2, inside), PERFECT[2]])
    assert metrics["bbox/AP"] == metrics["segm/AP"] == pytest.approx(1.0)


def test_only_the_images_taken_in_are_judged(annotations: Path) -> None:
    assert metrics_of(CocoEvaluator(annotations), PERFECT[:1])["bbox/AP"] == pytest.approx(1.0)


def test_results_carry_dataset_ids_and_leave_the_prediction_alone(annotations: Path) -> None:
    evaluator = CocoEvaluator(annotations)
    before = PERFECT[0].boxes_xyxy.clone()  # type: ignore[union-attr]
    evaluator.update(None, PERFECT)  # type: ignore[arg-type]
    assert torch.equal(PERFECT[0].boxes_xyxy, before)  # type: ignore[arg-type]
    first = evaluator.results(evaluator.state())[0]
    assert first["category_id"] == 7
    assert first["bbox"] == [10, 10, 40, 40]
    assert first["image_id"] == 1


def test_a_label_without_a_category_in_the_file_is_left_out(annotations: Path) -> None:
    more = [
        prediction(1, [(2, [10, 10, 40, 40], 0.9), (0, [60, 20, 20, 30], 0.8), (1, [0, 0, 9, 9], 1.0)]),
        *PERFECT[1:],
    ]
    evaluator = CocoEvaluator(annotations, category_ids=[3, -1, 7, -1])
    assert metrics_of(evaluator, more)["bbox/AP"] == pytest.approx(1.0)
    assert {one["category_id"] for one in evaluator.results(evaluator.state())} == {3, 7}


def test_boxes_alone_are_judged_without_masks(annotations: Path) -> None:
    bare = [Prediction(p.image_id, p.size, p.boxes_xyxy, p.scores, p.labels) for p in PERFECT]
    metrics = metrics_of(CocoEvaluator(annotations, iou_types=("bbox",)), bare)
    assert metrics["bbox/AP"] == pytest.approx(1.0)
    assert not any(name.startswith("segm") for name in metrics)


def test_masks_that_were_never_predicted_are_an_error_not_zero(annotations: Path) -> None:
    bare = [Prediction(p.image_id, p.size, p.boxes_xyxy, p.scores, p.labels) for p in PERFECT]
    with pytest.raises(ShapeError, match="no mask"):
        metrics_of(CocoEvaluator(annotations), bare)


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        (prediction(1, [(5, [1, 1, 5, 5], 0.5)]), ShapeError, "label 5 of 2"),
        (prediction(77, []), DataError, "77"),
        (prediction(1, [(0, [1, 1, 5, 5], 0.5)], size=50), ShapeError, "50"),
    ],
)
def test_predictions_that_do_not_fit_the_data_are_refused(
    annotations: Path, wrong: Prediction, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        metrics_of(CocoEvaluator(annotations), [wrong])


def test_a_missing_or_wrong_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"nowhere\.json"):
        metrics_of(CocoEvaluator(tmp_path / "nowhere.json"), PERFECT)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="images"):
        metrics_of(CocoEvaluator(tmp_path / "list.json"), PERFECT)


def test_metrics_equal_those_pycocotools_prints_on_real_annotations() -> None:
    path = SHARED / "data/coco_mini/annotations/instances_val2017.json"
    if not path.exists():
        pytest.skip("needs the COCO excerpt at ../shared/data/coco_mini")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    rng = np.random.default_rng(0)
    ids = sorted(truth.cats)
    predictions, results = [], []
    for image_id, image in truth.imgs.items():
        size = (image["height"], image["width"])
        found = [a for a in truth.imgToAnns[image_id] if not a["iscrowd"] and rng.random() < 0.8]
        boxes = np.array([a["bbox"] for a in found], np.float32).reshape(-1, 4)
        boxes += rng.normal(0, 3, boxes.shape).astype(np.float32)
        labels = [ids.index(a["category_id"]) if rng.random() < 0.9 else int(rng.integers(80)) for a in found]
        scores = rng.random(len(found)).astype(np.float32)
        rles = [masks.encode(np.roll(masks.to_bitmap(a["segmentation"], *size), 3, axis=1)) for a in found]
        corners = torch.from_numpy(boxes.copy())
        corners[:, 2:] += corners[:, :2]
        predictions.append(
            Prediction(
                image_id, size, corners, torch.from_numpy(scores), torch.tensor(labels, dtype=torch.long), masks=rles
            )
        )
        for corner, label, score, rle in zip(corners, labels, scores, rles):
            xywh = [*corner[:2].tolist(), *(corner[2:] - corner[:2]).tolist()]
            one = {"image_id": image_id, "category_id": ids[label], "score": float(score)}
            results.append((one | {"bbox": xywh}, one | {"segmentation": rle}))
    metrics = metrics_of(CocoEvaluator(path), predictions)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl"]
    for column, iou_type in enumerate(("bbox", "segm")):
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes([pair[column] for pair in results]), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for name, expected in zip(names, evaluation.stats):
            assert metrics[f"{iou_type}/{name}"] == pytest.approx(expected, abs=1e-12), (iou_type, name)
    assert 0.1 < metrics["bbox/AP"] < 0.9
