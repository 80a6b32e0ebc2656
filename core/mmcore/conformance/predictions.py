"""Checks of predictions: one per image, each consistent in itself, and taken by the evaluators."""

import json
from typing import Any

from mmcore.conformance.subject import Subject, draw_batch, require


def predicts(subject: Subject) -> str:
    """Every validation set and a loose picture are predicted, and the evaluators take what is said."""
    import torch

    from mmcore.contract.model import Model, overrides
    from mmcore.contract.values import Prediction

    subject.model.eval()
    found = 0
    for name in subject.val.sources:
        batch = draw_batch(subject.val, name, min(2, len(subject.val.sources[name])))
        with torch.inference_mode():
            predictions = subject.model.predict(batch)
        require(
            isinstance(predictions, list) and all(isinstance(p, Prediction) for p in predictions),
            f"{name}: predict does not return a list of Prediction",
        )
        require(len(predictions) == len(batch), f"{name}: {len(predictions)} predictions for {len(batch)} images")
        for prediction in predictions:
            _fits(prediction, name)
            found += 0 if prediction.boxes_xyxy is None else len(prediction.boxes_xyxy)
        evaluator = subject.val.evaluators[name]()
        evaluator.update(batch, predictions)
        json.dumps(evaluator.state())
    if overrides(subject.model, Model.prepare):
        _predicts_loose(subject)
    return f"{found} objects found by the untrained model"


def _predicts_loose(subject: Subject) -> None:
    """`mmcore predict` gives images of any size, with the family's own vocabulary."""
    import numpy as np
    import torch

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    with torch.inference_mode():
        (prediction,) = subject.model.predict(subject.model.prepare([image], names=None, prompt=None))
    require(prediction.size == (50, 70), f"a loose image of 50 x 70 pixels is predicted as {prediction.size}")
    _fits(prediction, "prepare")


def _fits(prediction: Any, name: str) -> None:
    """Everything a prediction says per object must be there for the same number of objects."""
    import torch

    counts = {
        key: len(value)
        for key in ("boxes_xyxy", "scores", "labels", "names", "masks", "track_ids")
        if (value := getattr(prediction, key)) is not None
    }
    require(len(set(counts.values())) <= 1, f"{name}: a prediction disagrees about its number of objects: {counts}")
    for key in ("boxes_xyxy", "scores", "labels"):
        value = getattr(prediction, key)
        require(
            value is None or (isinstance(value, torch.Tensor) and value.device.type == "cpu"),
            f"{name}: {key} of a prediction must be a tensor on the CPU",
        )
