"""Golden inference: raw outputs, the selected pairs, scores, boxes and masks at the original size."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcore.contract.values import Prediction
from mmcore.data.collate import pad_images
from mmcore.geometry.masks import decode_all
from mmcore.geometry.masks import encode as encode_mask
from mmcore.parity import Case, Check, NotRun, Report
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import GleeConfig
from mmcore_glee.data.augment import LargeScaleJitter
from mmcore_glee.outputs import DecoderOutputs, Draws
from mmcore_glee.parity.common import close_all, images_of, make_batch, mask_logits, model_of
from mmcore_glee.predict import predictions
from mmcore_glee.tokenizer import MAX_TOKENS, tokenise
from mmcore_glee.vocabulary import clean_expression
from mmcore_glee.vocabulary import names as vocabulary

VIDEO = ("infer_video", "infer_tao")
DIFFERENT = 1e3
"""Cost of pairing results of different classes."""


def check_inference(case: Case, report: Report) -> None:
    """One image per record: the network's outputs, and what is made of them."""
    if case.name.startswith(VIDEO):
        raise NotRun("video inference is not built yet")
    model = model_of(case).eval()
    images = images_of(case)
    if len(images) != len(case.data["records"]):
        raise NotRun("the case has another number of images than records")
    for i, (image, record) in enumerate(zip(images, case.data["records"], strict=True)):
        batch = _batch(case, image, record, model.config)
        with torch.no_grad():
            outputs, _ = model.run(batch, Draws())
        _check_raw(case, report, outputs, "out.")
        topk = case.data["topk"]
        config = model.config.replace(detections=topk, long_detections=topk)
        _check_results(case, report, predictions(outputs, batch, config)[0], f"result.{i}.")


def check_prompt(case: Case, report: Report) -> None:
    """Interactive inference: one rectangle in every mode."""
    model = model_of(case).eval()
    x1, y1, x2, y2 = case.data["prompt_rectangle_xyxy"]
    image = images_of(case)[0]
    padded = pad_images([image])
    masks = torch.zeros(1, *padded.shape[-2:], dtype=torch.uint8)
    masks[:, y1:y2, x1:x2] = 1
    modes = sorted({name.split(".")[1] for name in case.outputs()})
    for mode in modes:
        case.tensors["input_ids"], case.tensors["attention_mask"] = tokenise(case.data["names"])
        batch = make_batch(case, padded, (tuple(image.shape[1:]),), task="coco", prompt_masks=masks, prompt_mode=mode)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs, _ = model.run(batch, Draws())
        _check_raw(case, report, outputs, f"out.{mode}.")


def _batch(case: Case, image: Tensor, record: dict[str, Any], config: GleeConfig) -> GleeBatch:
    """A record as a batch of one, with the words the published code would ask for."""
    task = _task(record)
    grounding = task == "grounding"
    words = vocabulary(task)
    if grounding:
        given = record["expressions"]
        words = (clean_expression(given if isinstance(given, str) else given[0]),)
    ids, mask = tokenise(words, MAX_TOKENS if grounding else None)
    case.tensors["input_ids"], case.tensors["attention_mask"] = ids, mask
    case.data["names"] = list(words)
    squared = config.backbone == "eva"
    if squared:  # the stored image comes before the grey
        side = config.eva_image_size
        grey = LargeScaleJitter(image_size=side).pad_value
        image = F.pad(image, (0, side - image.shape[2], 0, side - image.shape[1]), value=grey)
    size = (image.shape[1], image.shape[2])
    original = ((record["height"], record["width"]),)
    return make_batch(case, pad_images([image]), (size,), task=task, original_sizes=original, squared=squared)


def _task(record: Mapping[str, Any]) -> str:
    """The published rule: the data set's name decides, then expressions, then the task, then LVIS's fields."""
    name = record.get("dataset_name")
    if name is not None:
        return "obj365" if "obj365" in name else "sa1b" if "UVO_image" in name else name
    if "expressions" in record:
        return "grounding"
    return record.get("task", "lvis")


def _check_raw(case: Case, report: Report, outputs: DecoderOutputs, prefix: str) -> None:
    final = outputs.sets["final"]
    assert final.mask_embed is not None
    assert outputs.track_embed is not None
    masks = mask_logits(final.mask_embed, outputs.mask_features)
    actual = {
        "pred_logits": final.logits,
        "pred_boxes": final.boxes_cxcywh,
        "pred_scores": final.confidence,
        "pred_track_embed_sub": outputs.track_embed[..., :: max(1, outputs.track_embed.shape[-1] // 16)],
        "pred_masks_mean": masks.flatten(2).mean(-1),
        "pred_masks": masks,
    }
    actual = {prefix + name: value for name, value in actual.items()}
    names = [name for name in case.outputs() if name.startswith(prefix)]
    close_all(report, actual, case.tensors, names, absolute=case.data["tolerance"]["outputs_absolute"])


def _check_results(case: Case, report: Report, prediction: Prediction, prefix: str) -> None:
    given, tolerance = case.tensors, case.data["tolerance"]
    assert prediction.scores is not None
    assert prediction.labels is not None
    assert prediction.boxes_xyxy is not None
    assert prediction.masks is not None
    masks = torch.from_numpy(decode_all(prediction.masks))
    area = masks.flatten(1).sum(1).float()
    scores, classes, boxes = (given[prefix + name] for name in ("scores", "classes", "boxes"))
    report.equal(f"{prefix}count", len(prediction.scores), len(scores))
    if len(prediction.scores) != len(scores):
        return
    # Equal scores have no order of their own (empty masks all score 0), so results are paired by what they are.
    ours = torch.cat([prediction.scores[:, None], prediction.boxes_xyxy], dim=1)
    theirs = torch.cat([scores[:, None], boxes], dim=1)
    cost = torch.cdist(theirs.double(), ours.double()) + DIFFERENT * (classes[:, None] != prediction.labels[None])
    _, order = linear_sum_assignment(cost.numpy())
    report.close(f"{prefix}scores", prediction.scores[order], scores, absolute=tolerance["scores_absolute"])
    report.equal(f"{prefix}classes", prediction.labels[order], classes)
    report.close(f"{prefix}boxes", prediction.boxes_xyxy[order], boxes, absolute=tolerance["boxes_pixels"])
    limit = tolerance["mask_area_relative"]
    report.close(f"{prefix}mask_area", area[order], given[f"{prefix}mask_area"], relative=limit)
    best = scores.argsort(descending=True, stable=True)
    _check_masks(case, report, prefix, masks[order][best].numpy(), scores[best])


def _check_masks(case: Case, report: Report, prefix: str, masks: np.ndarray, scores: Tensor) -> None:
    """The stored run lengths of the best results; among equal scores any of the results may be meant."""
    stored = case.data["masks_rle"][f"{prefix}masks_top5_by_score"]
    limit = case.data["tolerance"]["mask_area_relative"]
    left = set(range(len(masks)))
    for rank, expected in enumerate(decode_all(stored)):
        tied = [i for i in left if abs(float(scores[i] - scores[rank])) <= case.data["tolerance"]["scores_absolute"]]
        differing = {i: int((masks[i] != expected).sum()) for i in tied}
        nearest = min(differing, key=differing.__getitem__)
        left.discard(nearest)
        allowed = max(1.0, limit * float(expected.sum()))
        report.close(f"{prefix}mask.{rank} differing pixels", differing[nearest], 0, absolute=allowed)
        same_size = encode_mask(masks[nearest])["size"]
        report.equal(f"{prefix}mask.{rank} size", list(same_size), list(stored[rank]["size"]))


KINDS: dict[str, Check] = {"infer_": check_inference, "infer_prompt": check_prompt}
