"""Golden cases of the data: words, sampling rule, and samples of both pipelines from the case's own small data sets.

Drawn steps are stored with the case and replayed, so pixels must be equal; that we could have drawn them is checked
beside it, and inference draws nothing, so there our own steps must be the stored ones.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmcore import masks
from mmcore.data.coco import CocoInstances
from mmcore.data.index import open_index
from mmcore.data.order import Order, group_by_aspect, record_weights, repeat_factors
from mmcore.data.records import Object, Record, Records
from mmcore.data.refer import RefCoco
from mmcore.data.transforms import Crop, Flip, Pad, Resize, Size, Step, Transform, shortest_edge
from mmcore.evaluate.refcoco import RefCocoEvaluator, as_percentages
from mmcore.parity import Case, Check, Report
from mmcore.types import Batch, Draw, Prediction, Sample

from mmcore_glee import vocabulary
from mmcore_glee.data.augment import NO_LIMIT, LargeScaleJitter, Multiscale, Pipeline
from mmcore_glee.data.sources import ImageSource, spoken
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.tokenizer import token_ids


def check_vocabularies(case: Case, report: Report) -> None:
    """Names of every task, cleaning of expressions, token ids."""
    given = case.data
    for task, names in given["names"].items():
        report.equal(f"names.{task}", vocabulary.names(task), names)
    for tasks, other in given["same_list_as"].items():
        expected = other if isinstance(other, list) else given["names"][other]
        for task in tasks.split(", "):
            report.equal(f"same_list_as.{task}", vocabulary.names(task), expected)
    for expression, cleaned in given["expression_cleaning"]:
        report.equal(f"expression_cleaning.{expression}", vocabulary.clean_expression(expression), cleaned)
    for text, ids in given["tokens"]:
        report.equal(f"tokens.{text[:40]}", token_ids(_spelled_out(text)), ids)
    if "visual_genome_phrases" in given:
        own = vocabulary.phrases()
        count = given["visual_genome_phrases"]["count"]
        print(
            f"  note visual_genome_phrases: the {count} published phrases are not distributed and not compared; random"
            f" negatives come from {len(own)} own names"
        )


def _spelled_out(text: str) -> str:
    """The text that a case abbreviates as `aaaaa...(400 characters a)`."""
    found = re.fullmatch(r".*\((\d+) characters (.)\)", text)
    return found.group(2) * int(found.group(1)) if found else text


def check_sampler(case: Case, report: Report) -> None:
    """Weights of the records, batches of a stream, and that the training order draws with the same weights."""
    given = case.data
    sizes, ratios = given["sizes"], given["ratio"]
    ends = np.cumsum(sizes)
    categories = [given["categories"][end - size : end] for size, end in zip(sizes, ends, strict=True)]
    for threshold, expected in given["weights_by_repeat_threshold"].items():
        factors = [
            repeat_factors(records, float(threshold)) if wanted else None
            for records, wanted in zip(categories, given["use_rfs"], strict=True)
        ]
        weights = record_weights(sizes, ratios, factors)
        report.close(f"weights_by_repeat_threshold.{threshold}", weights, expected, absolute=1e-6)
    stream = ((one["dataset_source"], one["width"] > one["height"], one["id"]) for one in given["stream"])
    report.equal("batches", list(group_by_aspect(stream, given["batch_sizes"])), given["batches"])
    _check_order(given, report)


def _check_order(given: Mapping[str, Any], report: Report) -> None:
    """The order draws each data set as often as the stored weights (without repeat factors) say: within 5 sigma."""
    plain = np.asarray(record_weights(given["sizes"], given["ratio"]))
    ends = np.cumsum(given["sizes"])
    totals = np.array([plain[end - size : end].sum() for size, end in zip(given["sizes"], ends, strict=True)])
    names = [str(i) for i in range(len(totals))]
    order = Order(
        dict(zip(names, given["sizes"], strict=True)),
        dict(zip(names, given["ratio"], strict=True)),
        dict(zip(names, given["batch_sizes"], strict=True)),
        seed=1,
    )
    drawn = [draw.source for m in range(4000) for draw in order.draws(m)]
    counts = np.array([drawn.count(name) for name in names])
    share = totals / totals.sum()
    # Samples come in batches of one source, so a count varies with the batch size.
    sigma = np.sqrt(share * (1 - share) * max(given["batch_sizes"]) / len(drawn))
    report.close("order draws by these weights", counts / len(drawn), share, absolute=float(5 * sigma.max()))


def check_data(case: Case, report: Report) -> None:
    """Records, and the samples of every pipeline: replayed steps on pixels, boxes, masks, classes and words."""
    with TemporaryDirectory() as cache:
        source = _source(case, Path(cache))
        records = {record.id: record for record in source.records}
        stored = case.data["records"]
        report.equal("records", [_as_published(record, source, case.folder) for record in records.values()], stored)
        for key, expected in case.data["samples"].items():
            mapper, number, _ = key.split(".", 2)
            chosen = replace(source, pipeline=_pipeline(mapper, case.data["overrides"]))
            _check_sample(case, report, chosen, records[stored[int(number)]["image_id"]], key, expected)


def _source(case: Case, cache: Path) -> ImageSource:
    """The case's own files, with the file's categories for a vocabulary, as the published code numbers them."""
    refers = "expressions" in case.data["records"][0]
    path = next(path for path in sorted(case.folder.rglob("*.json")) if path.name != "case.json")
    index = open_index(RefCoco(path) if refers else CocoInstances(path), cache, workers=1)
    records = Records(index, keep_empty=True)
    whole_name, name = case.data["records"][0]["file_name"], records[0].image
    return ImageSource(
        name=case.name,
        records=records,
        images=case.folder / whole_name.removesuffix(name),
        task=TASKS["grounding" if refers else "coco"],
        pipeline=Multiscale(),
        labels=np.arange(len(index.meta["categories"])),
    )


def _pipeline(mapper: str, overrides: Mapping[str, Any]) -> Pipeline:
    """The pipeline a sample was made with; overrides are entries of upstream's configuration."""
    lsj = mapper.endswith("lsj")
    names = {
        "INPUT.IMAGE_SIZE": "image_size",
        "INPUT.MIN_SCALE": "min_scale",
        "INPUT.MAX_SCALE": "max_scale",
    }
    if not lsj:
        names = {
            "INPUT.MIN_SIZE_TRAIN": "min_sizes",
            "INPUT.MAX_SIZE_TRAIN": "max_size",
            "INPUT.CROP.SIZE": "crop_range",
            "INPUT.MIN_SIZE_TEST": "test_min_size",
            "INPUT.MAX_SIZE_TEST": "test_max_size",
        }
    values = {names[key]: value for key, value in overrides.items() if key in names}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return LargeScaleJitter(**values) if lsj else Multiscale(**values)


def _as_published(record: Record, source: ImageSource, folder: Path) -> dict[str, Any]:
    """A record as the published loader gives it."""
    refers = bool(record.expressions)
    image = {
        "file_name": str((source.images / record.image).relative_to(folder)),
        "height": record.height,
        "width": record.width,
        "image_id": record.id,
        "annotations": [_annotation(item) for item in record.objects],
        "task": "grounding" if refers else "detection",
    }
    return {**image, "expressions": record.expressions} if refers else {**image, "dataset_name": source.task.name}


def _annotation(item: Object) -> dict[str, Any]:
    entry = {"iscrowd": int(item.crowd), "bbox": item.box_xywh, "category_id": item.category, "bbox_mode": "XYWH_ABS"}
    return {**entry, "segmentation": item.segmentation} if item.segmentation else entry


def _check_sample(
    case: Case, report: Report, source: ImageSource, record: Record, key: str, expected: Mapping[str, Any]
) -> None:
    training = not key.startswith("test")
    image = source.read(record)
    transform = Transform(image.shape[:2], _steps(expected["transforms"][0]))
    if training:
        report.equal(f"{key} could be drawn", _could_draw(source.pipeline, transform, record), True)
    else:
        report.equal(f"{key}.transforms", source.pipeline.test(transform.size) == transform, True)
    draw = Draw(source.name, 0, int(expected["seed"]))
    spoken_as = [spoken(expression, transform) for expression in record.expressions]
    choice = 0
    if "expressions" in expected:
        report.equal(f"{key}.expressions", expected["expressions"] in spoken_as, True)
        choice = max(spoken_as.index(expected["expressions"]) if expected["expressions"] in spoken_as else 0, 0)
    has_targets = training or f"{key}.boxes" in case.tensors
    if has_targets:
        sample = source.transformed(record, image, transform, draw, expression=choice)
    else:
        sample = source.present(record, image, transform, draw)
    report.equal(f"{key}.dropped", sample is None, bool(expected.get("dropped")))
    if sample is not None:
        _compare(case, report, sample, transform, key, expected, refers=bool(record.expressions))


def _compare(
    case: Case,
    report: Report,
    sample: Sample,
    transform: Transform,
    key: str,
    expected: Mapping[str, Any],
    *,
    refers: bool,
) -> None:
    tensors, bitmaps = case.tensors, case.data["masks_rle"]
    report.close(f"{key}.image", sample.image, tensors[f"{key}.image"])
    report.equal(f"{key}.size", sample.original_size, [expected["height"], expected["width"]])
    report.equal(f"{key}.task", "grounding" if refers else "detection", expected["task"])
    if f"{key}.boxes" in tensors:
        report.close(f"{key}.boxes", sample.boxes_xyxy, tensors[f"{key}.boxes"], absolute=1e-4)
        report.equal(f"{key}.classes", sample.labels, tensors[f"{key}.classes"])
    if f"{key}.masks" in bitmaps:
        drawn = [] if sample.masks is None else masks.encode_all(sample.masks.numpy())
        report.equal(f"{key}.masks", drawn, bitmaps[f"{key}.masks"])
    padding = ~transform.bitmaps(np.ones((1, *transform.size), np.uint8))
    if f"{key}.padding_mask" in bitmaps:
        report.equal(f"{key}.padding_mask", masks.encode_all(padding), bitmaps[f"{key}.padding_mask"])
    if "instance_image_size" in expected:
        # The published referring branch states the padded size, the detection branch the size without padding.
        inside = [int((~padding[0]).any(axis=axis).sum()) for axis in (1, 0)]
        size = list(transform.output_size) if refers else inside
        report.equal(f"{key}.instance_image_size", [size], expected["instance_image_size"])


def _steps(stored: list[Any]) -> tuple[Step, ...]:
    """Steps as detectron2 names them."""
    steps: list[Step] = []
    for name, values in stored:
        if name == "HFlipTransform":
            steps.append(Flip())
        elif name == "ResizeTransform":
            steps.append(Resize(values["new_h"], values["new_w"]))
        elif name == "CropTransform":
            steps.append(Crop(values["x0"], values["y0"], values["w"], values["h"]))
        elif name == "PadTransform":
            sides = values["orig_h"] + values["y1"], values["orig_w"] + values["x1"]
            steps.append(Pad(*sides, int(values["pad_value"])))
        elif name != "NoOpTransform":
            raise ValueError(f"no step stands for {name}")
    return tuple(steps)


def _could_draw(pipeline: Pipeline, transform: Transform, record: Record) -> bool:
    """Whether the steps are among those that the pipeline draws for this record."""
    steps = [step for step in transform.steps if not isinstance(step, Flip)]
    counts = any(vocabulary.has_ordinal(expression) for expression in record.expressions)
    if isinstance(pipeline, LargeScaleJitter):
        return _could_jitter(pipeline, transform.size, steps, counts)
    assert isinstance(pipeline, Multiscale)
    size = transform.size
    if len(steps) == 3 and not counts:
        larger, crop = steps[0], steps[1]
        if larger not in [shortest_edge(size, side, NO_LIMIT) for side in pipeline.crop_min_sizes]:
            return False
        low, high = pipeline.crop_range
        if not isinstance(crop, Crop) or not isinstance(larger, Resize):
            return False
        for side, start, length in ((larger.height, crop.y0, crop.height), (larger.width, crop.x0, crop.width)):
            if not (min(side, low) <= length <= min(side, high) and 0 <= start <= side - length):
                return False
        size = crop.height, crop.width
        steps = steps[2:]
    return len(steps) == 1 and steps[0] in [shortest_edge(size, s, pipeline.max_size) for s in pipeline.min_sizes]


def _could_jitter(pipeline: LargeScaleJitter, size: Size, steps: list[Step], counts: bool) -> bool:
    resize, crop, pad = steps
    side = pipeline.image_size
    if not isinstance(resize, Resize) or not isinstance(crop, Crop) or pad != Pad(side, side, pipeline.pad_value):
        return False
    longest = max(resize.height, resize.width)
    scale = longest / max(size)
    whole = all(abs(new - old * scale) <= 1 for new, old in zip((resize.height, resize.width), size, strict=True))
    low, high = pipeline.min_scale * side - 1, (1.0 if counts else pipeline.max_scale) * side + 1
    inside = 0 <= crop.x0 <= max(resize.width - side, 0) and 0 <= crop.y0 <= max(resize.height - side, 0)
    return whole and low <= longest <= high and inside and (crop.width, crop.height) == (side, side)


def check_refcoco_evaluation(case: Case, report: Report) -> None:
    """Every metric of the referring evaluation, from the case's annotation file and predictions."""
    annotations = next(path for path in sorted(case.folder.rglob("*.json")) if path.name != "case.json")
    evaluator = RefCocoEvaluator(annotations)
    images = json.loads(annotations.read_text())["images"]
    predictions = [
        Prediction(
            image_id=image["id"],
            size=(image["height"], image["width"]),
            boxes_xyxy=case.tensors[f"pred.{i}.box"],
            scores=case.tensors[f"pred.{i}.score"],
            labels=torch.zeros(len(case.tensors[f"pred.{i}.score"]), dtype=torch.int64),
            masks=case.data["masks_rle"][f"pred.{i}.mask"],
        )
        for i, image in enumerate(images)
        if f"pred.{i}.box" in case.tensors
    ]
    evaluator.update(Batch(case.name, (), {}), predictions)
    found = as_percentages(evaluator.summarise(evaluator.state()))
    for kind, metrics in case.data["results"].items():
        for name, value in metrics.items():
            report.close(f"results.{kind}.{name}", found.get(kind, {}).get(name, float("nan")), value, absolute=1e-6)
    report.covers(*(name for name in case.tensors if name.startswith("pred.")))  # what was evaluated


KINDS: dict[str, Check] = {
    "vocabularies": check_vocabularies,
    "sampler": check_sampler,
    "data_coco": check_data,
    "data_refcoco": check_data,
    "eval_refcoco": check_refcoco_evaluation,
}
