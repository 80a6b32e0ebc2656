"""GCG's figures on stored predictions, and the bookkeeping of drawn kinds and data sets."""

import json
import random
from collections import Counter

import numpy as np
from mmcore.data.order.by_kind import ByKindOrder
from mmcore.evaluate import grounded_captions as gcg
from mmcore.evaluate.captions import caption_scores
from mmcore.parity import Case, Check, Report

from mmcore_glamm import recipes


def metrics(case: Case, report: Report) -> None:
    """AP, mIoU, recall with the case's own likeness of phrases, METEOR and CIDEr."""
    stored = case.data
    truth_of = case.folder / "gt_caption.json", case.folder / "gt_mask.json"
    pictures = [one["id"] for one in json.loads(truth_of[0].read_text())["images"]]
    items = [json.loads((case.folder / "predictions" / f"{picture}.json").read_text()) for picture in pictures]
    truth = gcg.Truth(*truth_of, pictures)
    precision = gcg.average_precision(truth, items)
    limit = stored["tolerances"]
    report.close("coco_stats", precision, stored["coco_stats"], absolute=limit)
    report.close("AP50", precision[1], stored["AP50"], absolute=limit)
    overlaps = {one["image_id"]: gcg.iou_matrix(one["pred_masks"], truth.masks[one["image_id"]]) for one in items}
    for one in items:
        name = one["image_id"]
        wanted = stored["per_image"][name]
        report.close(f"{name}.miou", gcg.mean_iou(overlaps[name]), wanted["miou"], absolute=limit)
        alike = gcg.by_words(truth.labels[name], one["phrases"])
        try:
            pairs = gcg.matches(overlaps[name].T, alike)
        except IndexError:
            pairs = []
        report.equal(f"{name}.matches", [list(pair) for pair in pairs], wanted["matches"] or [])
    mean = np.mean([gcg.mean_iou(found) for found in overlaps.values()])
    report.close("mean_iou", mean, stored["mean_iou"], absolute=limit)
    recall = gcg.recall(truth, items, overlaps, gcg.by_words)
    report.close("recall", recall, stored["recall"], absolute=limit)
    report.equal("actual_positives", sum(len(truth.labels[name]) for name in pictures), stored["actual_positives"])
    report.close("true_positives", recall * stored["actual_positives"], stored["true_positives"], absolute=limit)
    scores = caption_scores(truth.captions, {one["image_id"]: one["caption"] for one in items})
    for name, value in scores.items():
        report.close(name, value, stored["caption_scores"][name], absolute=limit)


SAMPLES = 20_000


def sampling(case: Case, report: Report) -> None:
    """Kinds and data sets: the published probabilities, the recorded draws by the published rule, ours by frequency.

    The released draws come from unseeded generators, so none of them can be met; what is compared is the rule.
    """
    for name, stored in case.data["hybrid"].items():
        rates = np.array(stored["rates"], float)
        report.close(f"{name}.probabilities", rates / rates.sum(), stored["probabilities"], absolute=1e-12)
        drawn = np.random.RandomState(stored["numpy_seed"])
        again = [int(drawn.choice(len(rates), p=rates / rates.sum())) for _ in stored["drawn"]]
        report.equal(f"{name}.drawn", again, stored["drawn"])
        report.equal(f"{name}.length", len(again), stored["length"])
        report.close(f"{name}.frequencies of the order", _frequencies(rates), stored["probabilities"], absolute=0.015)
    steps = case.data["steps"]
    weights = dict(zip(steps["kinds"], steps["weights"], strict=True))
    report.equal("steps.weights", [recipes.KINDS[kind] for kind in steps["kinds"]], steps["weights"])
    seeds = random.Random(steps["python_seed"])
    report.equal("steps.epoch_seeds", [seeds.randint(0, 100_000) for _ in steps["epoch_seeds"]], steps["epoch_seeds"])
    for number, (seed, choices) in enumerate(zip(steps["epoch_seeds"], steps["choices"], strict=True)):
        drawn = random.Random(seed)
        kinds = range(len(weights))
        again = [drawn.choices(kinds, weights=list(weights.values()))[0] for _ in range(steps["steps_per_epoch"])]
        report.equal(f"steps.choices.{number}", again, choices)
    _kinds(report, weights)


def _frequencies(rates: np.ndarray) -> list[float]:
    names = [f"s{number}" for number in range(len(rates))]
    order = ByKindOrder(
        dict.fromkeys(names, 1000),
        dict(zip(names, rates.tolist(), strict=True)),
        dict.fromkeys(names, "seg"),
        {"seg": 1.0},
        dict.fromkeys(names, 2),
        batches_per_step=10,
    )
    counted = Counter(draw.source for m in range(SAMPLES // 2) for draw in order.draws(m))
    return [counted[name] / SAMPLES for name in names]


def _kinds(report: Report, weights: dict[str, float]) -> None:
    """One kind an optimiser step, as often as its weight says."""
    order = ByKindOrder(
        dict.fromkeys(weights, 1000),
        dict.fromkeys(weights, 1.0),
        {name: name for name in weights},
        weights,
        dict.fromkeys(weights, 2),
        batches_per_step=10,
    )
    drawn = [[order.source(10 * step + turn) for turn in range(10)] for step in range(SAMPLES // 10)]
    report.equal("one kind a step", all(len(set(turns)) == 1 for turns in drawn), True)
    counted = Counter(turns[0] for turns in drawn)
    shares = [counted[name] / len(drawn) for name in weights]
    total = sum(weights.values())
    report.close("steps.frequencies of the order", shares, [one / total for one in weights.values()], absolute=0.03)


KINDS: dict[str, Check] = {"metrics_": metrics, "sampling_": sampling}
