"""Evaluations on prepared answers: detection, referring expressions, question files."""

from typing import Any

from mmcore.data.formats.questions import Question
from mmcore.evaluate.short_answers import YesOrNo, agreement, alike, any_of, is_yes, nearly, plain
from mmcore.evaluate.spoken_boxes import Expressions, Truth
from mmcore.evaluate.spoken_detection import DetectionFromText
from mmcore.parity import Case, Check, Report

from mmcore_griffon.reading import published, read_boxes

COCO_NAMES = {"AR1": "AR@1", "AR10": "AR@10", "AR100": "AR@100"}
BOX_PX, STATISTIC, ACCURACY, SCORE = 1e-3, 1e-6, 5e-4, 1e-9
"""Tolerances that the cases state."""


def detection(case: Case, report: Report) -> None:
    """COCO average precision of answers in text, and every detection that they amount to."""
    (path,) = case.folder.glob("instances*.json")
    evaluator = DetectionFromText(path, read_boxes, published)
    items = [
        {
            "image_id": one["image_id"],
            "record_id": None,
            "size": [one["height"], one["width"]],
            "text": one["output"],
            "confidence": one["scores"],
        }
        for one in case.data["outputs"]
    ]
    found, stored = evaluator.results(items), case.data["results"]
    report.equal("detections", len(found), case.data["detections"])
    for key in ("image_id", "category_id", "score"):
        report.equal(f"results.{key}", [one[key] for one in found], [one[key] for one in stored])
    report.close("results.bbox", [one["bbox"] for one in found], [one["bbox"] for one in stored], absolute=BOX_PX)
    metrics = evaluator.summarise(items)
    for name, value in zip(case.data["coco_stats_names"], case.data["coco_stats"], strict=True):
        # pycocotools marks what is not defined by -1; ours is left out.
        ours = metrics.get(f"bbox/{COCO_NAMES.get(name, name)}", -1.0)
        report.close(f"coco_stats.{name}", ours, value, absolute=STATISTIC)


def expressions(case: Case, report: Report) -> None:
    """Accuracy of every file of referring expressions."""
    for name, outputs in case.data["outputs"].items():
        truths = [
            Truth(number, "", (tuple(one["gt_box"]),), (one["height"], one["width"]))
            for number, one in enumerate(outputs)
        ]
        items = [{"record_id": number, "text": _said(one["output"])} for number, one in enumerate(outputs)]
        accuracy = Expressions(truths, read_boxes).summarise(items)["accuracy@0.5"]
        report.close(f"accuracy.{name}", accuracy, case.data["accuracy"][name], absolute=ACCURACY)


def _said(output: str | list[str]) -> str:
    return output if isinstance(output, str) else output[0]


def questions(case: Case, report: Report) -> None:
    """Normalised answers and the scores of every kind of question file."""
    data = case.data
    ours = [plain(text) for text, _ in data["normalised"]]
    report.equal("normalised", ours, [expected for _, expected in data["normalised"]])
    for key, rule in (("score", agreement), ("okvqa", agreement), ("stvqa", any_of)):
        scores = [rule(one["pred_answer"], one["gt_answers"]) for one in data["textvqa"]]
        report.close(f"textvqa.{key}", scores, [one[key] for one in data["textvqa"]], absolute=SCORE)
    scores = [nearly(one["pred"], [one["gt"]]) for one in data["chartqa"]]
    report.close("chartqa", scores, [one["score"] for one in data["chartqa"]], absolute=SCORE)
    scores = [alike(one["pred"], one["gt"]) for one in data["docvqa"]]
    report.close("docvqa", scores, [one["anls"] for one in data["docvqa"]], absolute=SCORE)
    _pope(data["pope"], report)


def _pope(stored: dict[str, Any], report: Report) -> None:
    decided = ["yes" if is_yes(answer) else "no" for answer in stored["answers"]]
    report.equal("pope.decided", decided, stored["decided"])
    asked = [Question(number, "", None, (label,), {}) for number, label in enumerate(stored["labels"])]
    evaluator = YesOrNo(asked)
    metrics = evaluator.summarise([{"record_id": n, "text": text} for n, text in enumerate(stored["answers"])])
    for name, key in (("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("f1", "f1_score")):
        report.close(f"pope.{key}", metrics[name], stored[key], absolute=SCORE)
    report.close("pope.yes_ratio", metrics["yes"], stored["yes_ratio"], absolute=SCORE)
    pairs = list(zip(decided, stored["labels"], strict=True))
    for name, pair in (("TP", ("yes", "yes")), ("FP", ("yes", "no")), ("TN", ("no", "no")), ("FN", ("no", "yes"))):
        report.equal(f"pope.{name}", pairs.count(pair), stored[name])


KINDS: dict[str, Check] = {"eval_detection": detection, "eval_rec": expressions, "eval_vqa": questions}
