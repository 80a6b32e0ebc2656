"""Golden cases of the data: words, sampling rule, and samples of both pipelines from the case's own small data sets.

Drawn steps are stored with the case and replayed, so pixels must be equal; that we could have drawn them is checked
beside it, and inference draws nothing, so there our own steps must be the stored ones.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import Batch, Draw, Prediction, Sample
from mmcore.data.formats.coco import CocoInstances, Lvis, Phrases
from mmcore.data.formats.refer import RefCoco
from mmcore.data.formats.sa1b import kept
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.data.records import Record, Records
from mmcore.data.transforms import Crop, Flip, Pad, Resize, Size, Step, Transform, shortest_edge
from mmcore.data.videos import VideoRecord, VideoRecords
from mmcore.evaluate.refcoco import RefCocoEvaluator
from mmcore.geometry import masks
from mmcore.parity import Case, Check, NotRun, Report

from mmcore_glee import vocabulary
from mmcore_glee.data.augment import NO_LIMIT, LargeScaleJitter, Multiscale, Pipeline
from mmcore_glee.data.clips import ClipSource
from mmcore_glee.data.sources import ImageSource, spoken
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.parity.sampler import group_by_aspect, record_weights, repeat_factors
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
    order = SourcePerBatchOrder(
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
    given = case.data["records"]
    groups = given if isinstance(given, dict) else {"": given}
    for group, stored in groups.items():
        with TemporaryDirectory() as cache:
            source = _source(case, _annotations(case, group), stored[0], Path(cache))
            # The published loader of phrases leaves images without any out, the others keep them.
            free = source.task.words == "phrases"
            records = {record.id: record for record in source.records if record.objects or not free}
            found = [_as_published(record, source, case.folder, stored[0]) for record in records.values()]
            report.equal(f"records.{group}".rstrip("."), found, stored)
            for key, expected in case.data["samples"].items():
                mapper, number, _ = key.split(".", 2)
                if _is_of(group, groups, mapper, expected):
                    chosen = replace(source, pipeline=_pipeline(mapper, case.data["overrides"]))
                    _check_sample(case, report, chosen, records[stored[int(number)]["image_id"]], key, expected)
    if "kept_ids" in case.data:
        _check_kept(case, report)


def _is_of(group: str, groups: Collection[str], mapper: str, expected: Mapping[str, Any]) -> bool:
    """Whether a sample is one of this group's: its key names a group or a pipeline."""
    if mapper in groups:
        return mapper == group
    return group == "" or group == {"grit": "grit", "vg": "objects"}[expected["task"]]


def _annotations(case: Case, group: str) -> Path:
    """The annotation file of a case, or of one of its groups."""
    patterns = {"objects": "train_from_objects.json", "captions": "train.json", "grit": "grit*.json"}
    found = sorted(case.folder.rglob(patterns.get(group, "*.json")))
    return next(path for path in found if path.name != "case.json" and path.parent.name != "raw" and _is_index(path))


def _is_index(path: Path) -> bool:
    return "images" in json.loads(path.read_bytes())


def _source(case: Case, path: Path, stored: Mapping[str, Any], cache: Path) -> ImageSource:
    """The case's own files, with the file's categories for a vocabulary, as the published code numbers them."""
    parser, task = CocoInstances, TASKS["coco"]
    if "expressions" in stored:
        parser, task = RefCoco, TASKS["grounding"]
    elif "neg_category_ids" in stored:
        parser, task = Lvis, TASKS["lvis"]
    elif "object_description" in stored["annotations"][0]:
        parser, task = Phrases, TASKS[stored["task"]]
    elif stored.get("task") in ("sa1b", "UVO_image"):
        task = TASKS["sa1b"]
    index = open_index(parser(path), cache, workers=1)
    records = Records(index, keep_empty=True)
    name = next(record.image for record in records if record.id == stored["image_id"])
    # LVIS counts from the ids of its full list of categories, which are 1 to 1203.
    numbers = np.array(index.meta["category_ids"]) - 1 if parser is Lvis else np.arange(len(index.meta["categories"]))
    return ImageSource(
        name=case.name,
        records=records,
        images=case.folder / stored["file_name"].removesuffix(name),
        task=task,
        pipeline=Multiscale(),
        labels=numbers,
        has_masks=task.has_masks,
        sidecars=stored.get("task") == "sa1b",
    )


def check_videos(case: Case, report: Report) -> None:
    """Records of videos, and clips of both pipelines with the stored frames and steps."""
    stored = case.data["records"]
    with TemporaryDirectory() as cache:
        opened: dict[str, ClipSource] = {}
        for path in sorted(case.folder.rglob("*.json")):
            if path.name != "case.json" and "videos" in (content := json.loads(path.read_bytes())):
                group = "rvos" if "expressions" in content["videos"][0] else "video"
                opened[group] = _clip_source(case, path, Path(cache), group, stored)
        source = opened["video"]
        report.equal("records", [_video_as_published(r, source, case.folder) for r in source.records], stored)
        for key, expected in case.data["samples"].items():
            mapper, number, _ = key.split(".", 2)
            source = opened["rvos" if mapper.startswith("rvos") else "video"]
            values = {k.removesuffix(" (video)"): v for k, v in case.data["overrides"].items() if "CROP" not in k}
            values |= {"INPUT.CROP.SIZE": case.data["overrides"]["INPUT.CROP.SIZE (video)"]}
            source = replace(source, pipeline=_pipeline(mapper, values))
            source = replace(source, frame_range=case.data["overrides"]["INPUT.SAMPLING_FRAME_RANGE"])
            _check_clip(case, report, source, int(number), key, expected)
    report.covers(*(name for name in case.tensors if name.endswith(".ids")))


def _clip_source(case: Case, path: Path, cache: Path, group: str, stored: list[dict[str, Any]]) -> ClipSource:
    index = open_index(Videos(path, expressions=group == "rvos"), cache, workers=1)
    task = TASKS["rvos"] if group == "rvos" else TASKS[stored[0]["dataset_name"]]
    records = VideoRecords(index, keep_empty=True)
    first = records[0].frames[0]
    images = next(p for p in case.folder.rglob(Path(first).name) if str(p).endswith(first))
    labels = (
        np.zeros(len(index.meta["categories"]), np.int64)
        if group == "rvos"
        else np.arange(len(index.meta["categories"]))
    )
    return ClipSource(
        name=case.name,
        records=records,
        images=Path(str(images).removesuffix(first)),
        task=task,
        pipeline=Multiscale(),
        labels=labels,
    )


def _named(source: ImageSource | ClipSource, name: str, folder: Path) -> str:
    """A picture's path below the case, as the published code gives it."""
    assert isinstance(source.images, Path), "cases keep their pictures in folders"
    return str((source.images / name).relative_to(folder))


def _video_as_published(record: VideoRecord, source: ClipSource, folder: Path) -> dict[str, Any]:
    frames = []
    for number in range(len(record.frames)):
        seen = [track for track in record.objects if track.boxes_xywh[number] is not None]
        frames.append(
            [
                {
                    "iscrowd": int(track.crowd),
                    "category_id": int(source.labels[track.category]),
                    "id": track.id,
                    "bbox": list(track.boxes_xywh[number] or ()),
                    "bbox_mode": "XYWH_ABS",
                }
                for track in seen
            ]
        )
    return {
        "file_names": [_named(source, name, folder) for name in record.frames],
        "height": record.height,
        "width": record.width,
        "length": len(record.frames),
        "video_id": record.id,
        "annotations": frames,
        "has_mask": source.has_masks,
        "task": "vis",
        "dataset_name": source.task.name,
    }


def _check_clip(
    case: Case, report: Report, source: ClipSource, number: int, key: str, expected: Mapping[str, Any]
) -> None:
    record = source.records[number]
    names = [_named(source, name, case.folder) for name in record.frames]
    numbers = [names.index(name) for name in expected["file_names"]]
    images = [source.read(record, frame) for frame in numbers]
    transforms = [Transform(images[0].shape[:2], _steps(steps)) for steps in expected["transforms"]]
    spoken_as = [spoken(expression, transforms[0]) for expression in record.expressions]
    choice = spoken_as.index(expected["expressions"][0]) if "expressions" in expected else 0
    draw = Draw(source.name, number, int(expected["seed"]))
    clip = source.transformed(record, numbers, images, transforms, draw, expression=choice)
    if "expressions" in expected:
        report.equal(f"{key}.expressions", [clip.expression] * len(clip), expected["expressions"])
    report.equal(f"{key}.size", clip.original_size, [expected["height"], expected["width"]])
    for place in range(len(clip)):
        frame, name = clip.frame(place), f"{key}.{place}"
        stays = case.tensors[f"{name}.ids"] != -1
        report.close(f"{name}.image", frame.image, case.tensors[f"{name}.image"])
        report.close(f"{name}.boxes", frame.boxes_xyxy, case.tensors[f"{name}.boxes"][stays], absolute=1e-4)
        report.equal(f"{name}.classes", frame.labels, case.tensors[f"{name}.classes"][stays])
        report.equal(f"{name}.track_ids", frame.track_ids, case.tensors[f"{name}.ids"][stays])
        assert frame.masks is not None
        kept = zip(case.data["masks_rle"].get(f"{name}.masks", ()), stays.tolist(), strict=True)
        report.equal(f"{name}.masks", masks.encode_all(frame.masks.numpy()), [rle for rle, stay in kept if stay])


def _check_kept(case: Case, report: Report) -> None:
    """Which masks the conversion of SA-1B keeps."""
    for path in sorted((case.folder / "raw").glob("*.json")):
        for content in json.loads(path.read_bytes()).values():
            number, annotations = content["image"]["image_id"], content["annotations"]
            found = [annotations[i]["id"] for i in kept(annotations)]
            report.equal(f"kept_ids.{number}", found, case.data["kept_ids"][str(number)])


SQUARES = {"INPUT.IMAGE_SIZE": "image_size", "INPUT.MIN_SCALE": "min_scale", "INPUT.MAX_SCALE": "max_scale"}
SIZES = {
    "INPUT.MIN_SIZE_TRAIN": "min_sizes",
    "INPUT.MAX_SIZE_TRAIN": "max_size",
    "INPUT.CROP.SIZE": "crop_range",
    "INPUT.MIN_SIZE_TEST": "test_min_size",
    "INPUT.MAX_SIZE_TEST": "test_max_size",
}
"""Numbers of the two published pipelines, and ours."""
GIVEN = frozenset(
    {"INPUT.SAMPLING_FRAME_NUM", "INPUT.SAMPLING_FRAME_RANGE", "INPUT.SAMPLING_INTERVAL", "INPUT.CROP.SIZE (video)"}
)
"""What frames and steps, which cases store as they were drawn, already say."""


def _pipeline(mapper: str, overrides: Mapping[str, Any]) -> Pipeline:
    """The pipeline a sample was made with; overrides are entries of upstream's configuration."""
    lsj = mapper.endswith("lsj")
    if unknown := set(overrides) - set(SIZES) - set(SQUARES) - GIVEN:
        raise NotRun(f"the case changes {', '.join(sorted(unknown))}, which has no counterpart here")
    names = SQUARES if lsj else SIZES
    values = {names[key]: value for key, value in overrides.items() if key in names}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return LargeScaleJitter(**values) if lsj else Multiscale(**values)


def _as_published(record: Record, source: ImageSource, folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the published loader gives it, with the entries that its kind has."""
    image = {
        "file_name": _named(source, record.image, folder),
        "height": record.height,
        "width": record.width,
        "image_id": record.id,
        "annotations": [_annotation(record, place, source, like) for place in range(len(record.objects))],
        **(record.category_lists or {}),
    }
    if record.expressions:
        image["expressions"] = record.expressions
    task = _task_name(source)
    names = {"task": task, "dataset_name": task if source.task.name == "sa1b" else source.task.name}
    return image | {name: value for name, value in names.items() if name in like}


def _task_name(source: ImageSource) -> str:
    """What the published loader calls a source's task."""
    if source.task.name == "sa1b":
        return "sa1b" if source.sidecars else "UVO_image"
    return source.task.name if source.task.words in ("phrases", "expression") else "detection"


def _annotation(record: Record, place: int, source: ImageSource, like: Mapping[str, Any]) -> dict[str, Any]:
    item = record.objects[place]
    label = int(source.labels[item.category])
    entry: dict[str, Any] = {"bbox": item.box_xywh, "category_id": label, "bbox_mode": "XYWH_ABS"}
    if "iscrowd" in like["annotations"][0]:
        entry["iscrowd"] = int(item.crowd)
    if record.phrases:
        entry["object_description"] = record.phrases[place]
    return {**entry, "segmentation": item.segmentation} if item.segmentation else entry


def _check_sample(
    case: Case, report: Report, source: ImageSource, record: Record, key: str, expected: Mapping[str, Any]
) -> None:
    if key.startswith("pseudo_video"):
        for frame in range(len(expected["transforms"])):
            _check_frame(case, report, source, record, f"{key}.{frame}", _steps(expected["transforms"][frame]))
        return
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
        if "object_descriptions" in expected:
            report.equal(f"{key}.object_descriptions", list(sample.names or ()), expected["object_descriptions"])
        if "task" in expected:
            report.equal(f"{key}.task", _task_name(source), expected["task"])


def _check_frame(
    case: Case, report: Report, source: ImageSource, record: Record, key: str, steps: tuple[Step, ...]
) -> None:
    """One frame of a video made from an image: an augmentation of its own, lost objects marked by the id -1."""
    image = source.read(record)
    sample = source.transformed(record, image, Transform(image.shape[:2], steps), Draw(source.name, 0, 0))
    assert sample is not None
    stays = case.tensors[f"{key}.ids"] != -1
    report.close(f"{key}.image", sample.image, case.tensors[f"{key}.image"])
    report.close(f"{key}.boxes", sample.boxes_xyxy, case.tensors[f"{key}.boxes"][stays], absolute=1e-4)
    report.equal(f"{key}.classes", sample.labels, case.tensors[f"{key}.classes"][stays])
    assert sample.masks is not None
    drawn = masks.encode_all(sample.masks.numpy())
    expected = [rle for rle, stay in zip(case.data["masks_rle"][f"{key}.masks"], stays.tolist(), strict=True) if stay]
    report.equal(f"{key}.masks", drawn, expected)
    report.covers(f"{key}.ids")


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


def as_percentages(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Metrics as the published code prints them: `{"bbox": {"P@0.5": 60.0, ...}, "segm": {"oIoU": ...}}`."""
    result: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        kind, metric = name.split("/", 1)
        result.setdefault(kind, {})[metric] = 100 * value
    return result


KINDS: dict[str, Check] = {
    "vocabularies": check_vocabularies,
    "sampler": check_sampler,
    "data_coco": check_data,
    "data_refcoco": check_data,
    "data_lvis": check_data,
    "data_vg": check_data,
    "data_sa1b": check_data,
    "data_uvo": check_data,
    "data_ytvis": check_videos,
    "eval_refcoco": check_refcoco_evaluation,
}
