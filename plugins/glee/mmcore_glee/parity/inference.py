"""Golden inference: raw outputs, the selected pairs, scores, boxes and masks at the original size."""

from collections.abc import Mapping
from dataclasses import replace
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
from mmcore_glee.model import Glee
from mmcore_glee.outputs import DecoderOutputs, Draws
from mmcore_glee.parity.common import close_all, images_of, make_batch, mask_logits, model_of
from mmcore_glee.parity.settings import multiple_of
from mmcore_glee.predict import predictions
from mmcore_glee.tokenizer import MAX_TOKENS, tokenise
from mmcore_glee.tracking import tao_predictions, video_predictions, windows_of
from mmcore_glee.vocabulary import clean_expression
from mmcore_glee.vocabulary import names as vocabulary

DIFFERENT = 1e3
"""Cost of pairing results of different classes."""


def check_inference(case: Case, report: Report) -> None:
    """One image per record: the network's outputs, and what is made of them."""
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
    padded = pad_images([image], multiple_of(case))
    masks = torch.zeros(1, *padded.shape[-2:], dtype=torch.uint8)
    masks[:, y1:y2, x1:x2] = 1
    modes = sorted({name.split(".")[1] for name in case.outputs()})
    for mode in modes:
        case.tensors["input_ids"], case.tensors["attention_mask"] = tokenise(case.data["names"])
        batch = make_batch(case, padded, (tuple(image.shape[1:]),), task="coco", prompt_masks=masks, prompt_mode=mode)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs, _ = model.run(batch, Draws())
        _check_raw(case, report, outputs, f"out.{mode}.")


def check_video(case: Case, report: Report) -> None:
    """Alignment of the frames' queries, the selected tracks, their boxes and masks."""
    model, given = model_of(case).eval(), case.tensors
    batch = _video_batch(case, _clip_task(case), tuple(case.data["original_size"]), model.config)
    tracks = model.track(batch)
    _check_frames(case, report, model, batch)
    report.equal("assignments", tracks.order[1:].tolist(), case.data["assignments"])
    report.equal("window", model.config.video_window, case.data["window"])
    frames = video_predictions(tracks, batch, model.config)
    scores, labels = frames[0].scores, frames[0].labels
    assert scores is not None
    assert labels is not None
    tolerance = case.data["tolerance"]
    boxes = video_predictions(tracks, _as_published(batch), model.config)
    ours = torch.stack([corner_and_size(frame.boxes_xyxy).long() for frame in boxes], dim=1)
    # The published order is that of an unsorted top-k, so results are paired by class, score and box.
    cost = (given["out.scores"][:, None] - scores[None]).abs().double()
    cost += DIFFERENT * (given["out.labels"][:, None] != labels[None])
    cost += torch.cdist(given["out.boxes"].flatten(1).double(), ours.flatten(1).double())
    _, order = linear_sum_assignment(cost.numpy())
    report.close("out.scores", scores[order], given["out.scores"], absolute=tolerance["scores_absolute"])
    report.equal("out.labels", labels[order], given["out.labels"])
    report.equal("out.boxes", ours[order], given["out.boxes"])
    masks = torch.stack([torch.from_numpy(decode_all(frame.masks or ())) for frame in frames], dim=1)[order]
    area, limit = masks.flatten(2).sum(2).float(), tolerance["mask_area_relative"]
    report.close("out.mask_area", area, given["out.mask_area"].float(), relative=limit)
    best = given["out.scores"].argsort(descending=True, stable=True)
    expected = torch.from_numpy(decode_all(case.data["masks_rle"]["out.masks_top4"])).unflatten(0, (-1, len(frames)))
    differing = (masks[best[: len(expected)]] != expected).flatten(2).sum(2)
    allowed = max(1.0, limit * float(expected.flatten(2).sum(2).max()))
    report.close("out.masks_top4 differing pixels", differing.max(), 0, absolute=allowed)


def _check_frames(case: Case, report: Report, model: Glee, batch: GleeBatch) -> None:
    """Raw outputs of every frame, queries in their own order."""
    with torch.no_grad():
        outputs = [model.run(window, Draws())[0] for window in windows_of(batch, model.config.video_window)]
    finals = [output.sets["final"] for output in outputs]
    actual = {
        "out.frame_logits_mean": torch.cat([final.logits for final in finals]).mean(-1),
        "out.frame_boxes": torch.cat([final.boxes_cxcywh for final in finals]),
    }
    close_all(report, actual, case.tensors, actual, absolute=case.data["tolerance"]["outputs_absolute"])


def check_tao(case: Case, report: Report) -> None:
    """The records of TAO's protocol, frame by frame."""
    model = model_of(case).eval()
    stored, tolerance = case.data["records"], case.data["tolerance"]
    frames_of = sorted({record["image_id"] for record in stored})
    report.equal("record_count", len(stored), case.data["record_count"])
    batch = _as_published(_video_batch(case, "tao_video", (1, 1), model.config))
    found = tao_predictions(model.track(batch), batch, model.config)
    expected = [[record for record in stored if record["image_id"] == image] for image in frames_of]
    report.equal("records per frame", [len(frame) for frame in expected], [len(f.labels) for f in found])  # type: ignore[arg-type]
    ours = torch.cat([corner_and_size(frame.boxes_xyxy) for frame in found])
    theirs = torch.tensor([record["bbox"] for records in expected for record in records])
    if len(ours) != len(theirs):
        return
    # The case does not tell the frames' original size: it is what takes our fractions to the stored boxes, whole
    # pixels, the same for all boxes.
    sides = ((theirs * ours).sum(0) / ours.square().sum(0)).round()
    report.equal("original size", sides[:2].tolist(), sides[2:].tolist())
    report.close("bbox", ours * sides, theirs, absolute=tolerance["boxes_pixels"])
    scores = torch.cat([frame.scores for frame in found if frame.scores is not None])
    flat = [record for records in expected for record in records]
    stored_scores = torch.tensor([record["score"] for record in flat])
    report.close("score", scores, stored_scores, absolute=tolerance["scores_absolute"])
    labels = torch.cat([frame.labels for frame in found if frame.labels is not None])
    report.equal("category_id", labels.tolist(), [record["category_id"] for record in flat])
    # Tracks are numbered by an unsorted top-k, so the numbers must only mean the same tracks.
    tracks = torch.cat([frame.track_ids for frame in found if frame.track_ids is not None]).tolist()
    pairs = set(zip(tracks, (record["track_id"] for record in flat), strict=True))
    report.equal("track_id", len(pairs), len(set(tracks)))
    report.equal("track_id, the other way", len(pairs), len({record["track_id"] for record in flat}))


def corner_and_size(boxes: Tensor | None) -> Tensor:
    """Corner and size of boxes given by two corners."""
    assert boxes is not None
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def _clip_task(case: Case) -> str:
    """The data set of a clip: told by the case, or by its published file."""
    base = case.data["config"]["base_config"].lower()
    return case.data.get("task") or next((name for name in ("ovis", "lvvis", "burst") if name in base), "ytvis19")


def _as_published(batch: GleeBatch) -> GleeBatch:
    """The batch whose boxes are made without regard to the grey of a square, which this package does regard."""
    return replace(batch, squared=False) if batch.squared else batch


def _squared(images: list[Tensor], config: GleeConfig) -> list[Tensor]:
    """Images in the grey square that Pro's are tested in; cases store what comes before it."""
    side = config.eva_image_size
    grey = LargeScaleJitter(image_size=side).pad_value
    return [F.pad(image, (0, side - image.shape[2], 0, side - image.shape[1]), value=grey) for image in images]


def _video_batch(case: Case, task: str, original: tuple[int, int], config: GleeConfig) -> GleeBatch:
    """The frames of a case as one video, with the words the published code would ask for."""
    images = images_of(case)
    squared = config.backbone == "eva"
    if squared:
        images = _squared(images, config)
    words = vocabulary(task)
    case.tensors["input_ids"], case.tensors["attention_mask"] = tokenise(words)
    case.data["names"] = list(words)
    sizes = tuple((image.shape[1], image.shape[2]) for image in images)
    frames = {"num_frames": (len(images),), "original_sizes": (original,) * len(images), "squared": squared}
    return make_batch(case, pad_images(images, multiple_of(case)), sizes, task=task, **frames)


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
    if squared:
        (image,) = _squared([image], config)
    size = (image.shape[1], image.shape[2])
    original = ((record["height"], record["width"]),)
    return make_batch(
        case, pad_images([image], multiple_of(case)), (size,), task=task, original_sizes=original, squared=squared
    )


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


KINDS: dict[str, Check] = {
    "infer_": check_inference,
    "infer_prompt": check_prompt,
    "infer_video": check_video,
    "infer_tao": check_tao,
}
