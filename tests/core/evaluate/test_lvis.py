"""LVIS metrics against numbers of the published evaluation (the package lvis 0.5.3) on the same small data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.values import Batch, Prediction
from mmcore.errors import DataError
from mmcore.evaluate.lvis import LvisEvaluator
from mmcore.geometry import masks

HEIGHT, WIDTH = 160, 200
FREQUENCY = {1: "r", 3: "r", 4: "c", 7: "c", 8: "f", 9: "f"}

# From lvis.LVISEval over `truth` and `detections` below, all images, both kinds of overlap.
PUBLISHED = {
    "bbox": {
        "AP": 0.12363578479894687,
        "AP50": 0.23518785826654603,
        "AP75": 0.12163446605677379,
        "APs": 0.03762972007381362,
        "APm": 0.15647509624821437,
        "APl": 0.6414851485148513,
        "APr": 0.08193318828327353,
        "APc": 0.07168437415393694,
        "APf": 0.2172897919596301,
        "AR@300": 0.3434669695962477,
        "ARs": 0.1803968253968254,
        "ARm": 0.36968048299082784,
        "ARl": 0.65,
    },
    "segm": {
        "AP": 0.12635343900592652,
        "AP50": 0.2378252002733513,
        "AP75": 0.1232610817541505,
        "APs": 0.03903733702598502,
        "APm": 0.15957944123110046,
        "APl": 0.6414851485148513,
        "APr": 0.08259997091514265,
        "APc": 0.07474034476187234,
        "APf": 0.22172000134076456,
        "AR@300": 0.3482676926104837,
        "ARs": 0.18515873015873013,
        "ARm": 0.3745201439684198,
        "ARl": 0.65,
    },
}


def rectangle(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def truth(seed: int = 0) -> dict[str, Any]:
    """Forty images, six categories of three frequencies, each image searched for some of them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    categories = [{"id": id_, "name": f"thing {id_}", "frequency": FREQUENCY[id_]} for id_ in FREQUENCY]
    images, annotations = [], []
    for number in range(1, 41):
        present, absent = (sorted(rng.permutation(list(FREQUENCY))[:count].tolist()) for count in (2, 2))
        images.append(
            {
                "id": number,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": [id_ for id_ in absent if id_ not in present],
                "not_exhaustive_category_ids": present[:1] if rng.random() < 0.5 else [],
            }
        )
        for category in present:
            for _ in range(int(rng.integers(1, 5))):
                w, h = (int(side) for side in rng.integers(8, 110, 2))
                box = [int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h)), w, h]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "bbox": box,
                        "area": w * h,
                        "segmentation": rectangle(box),
                    }
                )
    return {"images": images, "annotations": annotations, "categories": categories}


def detections(data: dict[str, Any], seed: int = 1) -> list[dict[str, Any]]:
    """Shifted true boxes, some under another name, and boxes from nowhere; on one image more than 300."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for annotation in data["annotations"]:
        for _ in range(int(rng.integers(0, 3))):
            x, y, w, h = (float(v) for v in np.asarray(annotation["bbox"]) + rng.integers(-6, 7, 4))
            name = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(list(FREQUENCY)))
            found.append((annotation["image_id"], name, [x, y, max(w, 2.0), max(h, 2.0)]))
    for image in data["images"]:
        for _ in range(400 if image["id"] == 3 else 4):
            w, h = (float(side) for side in rng.integers(8, 100, 2))
            x, y = float(rng.integers(0, WIDTH - int(w))), float(rng.integers(0, HEIGHT - int(h)))
            found.append((image["id"], int(rng.choice(list(FREQUENCY))), [x, y, w, h]))
    scores = rng.permutation(len(found)) / len(found)
    return [
        {"image_id": image, "category_id": name, "bbox": box, "score": float(score)}
        for (image, name, box), score in zip(found, scores, strict=True)
    ]


def predictions(found: list[dict[str, Any]]) -> list[Prediction]:
    ids = sorted(FREQUENCY)
    result = []
    for image in range(1, 41):
        mine = [one for one in found if one["image_id"] == image]
        boxes = np.array([one["bbox"] for one in mine], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        result.append(
            Prediction(
                image_id=image,
                size=(HEIGHT, WIDTH),
                boxes_xyxy=torch.tensor(boxes),
                scores=torch.tensor([one["score"] for one in mine], dtype=torch.float64),
                labels=torch.tensor([ids.index(one["category_id"]) for one in mine]),
                masks=[masks.polygons_to_rle(rectangle(one["bbox"]), HEIGHT, WIDTH) for one in mine],
            )
        )
    return result


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(truth()))
    return path


def test_metrics_are_those_of_the_published_evaluation(annotations: Path) -> None:
    evaluator = LvisEvaluator(annotations)
    evaluator.update(Batch("lvis", (), {}), predictions(detections(truth())))
    found = evaluator.summarise(evaluator.state())
    assert found.keys() == {f"{kind}/{name}" for kind, metrics in PUBLISHED.items() for name in metrics}
    for kind, metrics in PUBLISHED.items():
        for name, value in metrics.items():
            assert found[f"{kind}/{name}"] == pytest.approx(value, abs=1e-9), (kind, name)


def test_a_coco_file_is_refused(tmp_path: Path) -> None:
    data = truth()
    del data["images"][0]["neg_category_ids"]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(data))
    evaluator = LvisEvaluator(path)
    evaluator.update(Batch("lvis", (), {}), predictions(detections(data)))
    with pytest.raises(DataError, match="no neg_category_ids"):
        evaluator.summarise(evaluator.state())
