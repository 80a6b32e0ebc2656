"""Golden probes: each layer's prediction, loss, similarity and decoded depth, and the gradients of the whole."""

import torch
from mmcore.parity import Case, Check, Report

from mmcore_visper.interpret import interpret
from mmcore_visper.losses import smooth_l1
from mmcore_visper.parity.common import batch_of, close_all, config_of, limits_of, model_of
from mmcore_visper.parity.training import check_gradients, from_description, normalised
from mmcore_visper.probe import VisperProbe, cosine

STEPS = {"depth": 48, "seg": 5, "gen": 1}
"""Every so many tokens, or rows and columns, are stored; of decoded depth every 24th."""
PICTURE_STEP = 24


def check_probe(case: Case, report: Report) -> None:
    """One task: the loss, layer by layer, and what evaluation reports."""
    config = config_of(case)
    model = model_of(case, config)
    assert isinstance(model, VisperProbe)
    task = model.task.name
    target = from_description(case.data["inputs"]["targets"])
    batch = batch_of(case, config, {task: target})
    predictions = model.probe(batch)
    loss = normalised(model(batch), batch)["probe"]
    layers = torch.stack([smooth_l1(prediction, target).mean() for prediction in predictions])
    report.close("loss", loss, case.tensors["loss"], **limits_of(case))
    report.close("outputs.loss", loss, case.data["outputs"]["loss"], **limits_of(case))
    report.close("per_layer", layers, case.data["outputs"]["per_layer"], **limits_of(case))
    loss.backward()
    check_gradients(case, report, model)
    step = STEPS[task]
    actual = {}
    for i, prediction in enumerate(predictions):
        actual[f"pred.{i}"] = prediction[..., ::step, ::step] if task == "seg" else prediction[:, ::step]
        actual[f"cosine.{i}"] = cosine(prediction, target)
    for i, picture in enumerate(interpret(model, batch).depth_maps.values()):
        actual[f"depth_map.{i}"] = picture[:, ::PICTURE_STEP, ::PICTURE_STEP]
    stored = {n: t for n, t in case.tensors.items() if n.startswith(("pred.", "cosine.", "depth_map."))}
    close_all(report, actual, stored, **limits_of(case))


KINDS: dict[str, Check] = {"probe_": check_probe}
