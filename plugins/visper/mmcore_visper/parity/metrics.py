"""Evaluation: published scoring rules against the numbers that the published scripts gave for the same answers."""

import json
from typing import Any

import numpy as np
from mmcore.evaluate.vqa import normalise_answer, vqa_accuracy
from mmcore.parity import Case, Check, Report

from mmcore_visper.evaluate.benchmarks import cv_bench, mme, mme_score, mmstar, realworldqa_filtered
from mmcore_visper.evaluate.probing import closer_point_right, mean_iou

MME_NAMES = {"mme_percetion_score": "perception", "mme_cognition_score": "cognition"}
"""As the benchmark's tool prints them."""


def check(case: Case, report: Report) -> None:
    """Every stored metric of every benchmark."""
    absolute = case.data["tolerance"]["atol"]
    outputs: dict[str, Any] = case.data["outputs"]
    for name, stored in outputs.items():
        if name not in _CHECKS:
            report.add(name, float("nan"), 0.0, False, "stored but not checked")
            continue
        _CHECKS[name](case, report, stored, absolute)


def _cv_bench(case: Case, report: Report, stored: dict[str, float], absolute: float) -> None:
    _same_metrics(report, "cvbench", cv_bench(_lines(case, "cvbench.jsonl")), stored, absolute)


def _mmstar(case: Case, report: Report, stored: dict[str, float], absolute: float) -> None:
    _same_metrics(report, "mmstar", mmstar(_lines(case, "mmstar.jsonl")), stored, absolute)


def _okvqa(case: Case, report: Report, stored: list[dict[str, Any]], absolute: float) -> None:
    for row in stored:
        name = f"okvqa.{row['question_id']}"
        accuracy = vqa_accuracy(row["prediction"], row["answers"])
        report.close(f"{name}.accuracy", accuracy, row["accuracy"], absolute=absolute)
        report.equal(f"{name}.normalised", normalise_answer(row["prediction"]), row["normalised"])


def _mme(case: Case, report: Report, stored: dict[str, Any], absolute: float) -> None:
    for number, row in enumerate(stored["rows"]):
        score = mme_score(row["prediction"], row["answer"])
        report.close(f"mme.{number}.score", score, row["score"], absolute=absolute)
    totals = mme([{**row, "score": mme_score(row["prediction"], row["answer"])} for row in stored["rows"]])
    for name, value in stored["totals"].items():
        report.close(f"mme.{name}", totals[MME_NAMES[name]], value, absolute=absolute)


def _realworldqa(case: Case, report: Report, stored: list[dict[str, str]], absolute: float) -> None:
    for number, row in enumerate(stored):
        filtered = realworldqa_filtered(row["prediction"], row["question"])
        report.equal(f"realworldqa.{number}", filtered, row["filtered"])


def _miou(case: Case, report: Report, stored: float, absolute: float) -> None:
    with np.load(case.folder / "iou.npz", allow_pickle=False) as maps:
        report.close("miou", mean_iou(maps["gt"], maps["pred"]), stored, absolute=absolute)


def _da2k(case: Case, report: Report, stored: list[dict[str, Any]], absolute: float) -> None:
    with np.load(case.folder / "da2k.npz", allow_pickle=False) as maps:
        depth = maps["depth"]
    for number, row in enumerate(stored):
        right = closer_point_right(depth, row["point1"], row["point2"], row["closer_point"])
        report.equal(f"da2k.{number}", right, row["score"])


def _said_only(case: Case, report: Report, stored: str, absolute: float) -> None:
    """A remark, no number."""


_CHECKS = {
    "cvbench": _cv_bench,
    "mmstar": _mmstar,
    "okvqa": _okvqa,
    "mme": _mme,
    "realworldqa": _realworldqa,
    "miou": _miou,
    "da2k": _da2k,
    "realworldqa_note": _said_only,
}


def _same_metrics(
    report: Report, name: str, found: dict[str, float], stored: dict[str, float], absolute: float
) -> None:
    """Every stored metric, and none besides."""
    report.equal(f"{name} names", sorted(found), sorted(stored))
    for metric, value in stored.items():
        report.close(f"{name}.{metric}", found.get(metric, float("nan")), value, absolute=absolute)


def _lines(case: Case, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (case.folder / name).read_text().splitlines() if line.strip()]


KINDS: dict[str, Check] = {"eval_metrics": check}
