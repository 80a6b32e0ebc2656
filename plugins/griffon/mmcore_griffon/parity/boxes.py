"""Boxes: as text in both directions, how sure the model is of each, and their geometry."""

import numpy as np
import torch
from mmcore.geometry.box_text import BoxText
from mmcore.geometry.boxes import pairwise_giou, pairwise_iou, xyxy_to_cxcywh, xyxy_to_xywh
from mmcore.geometry.coordinates import Convention
from mmcore.language.confidence import Marks, confidence
from mmcore.parity import Case, Check, Report

from mmcore_griffon.answers import NOTHING_LEFT, extract, write

SIDE = 1022
"""Of the square that the case's formatter writes for."""
OTHER_FORMS = {
    "small_text": BoxText(convention=Convention(scale=1.0, decimals=3), box="({0},{1},{2},{3})"),
    "bin_text": BoxText(convention=Convention(scale=1000.0, decimals=0), box="<bin_{0}><bin_{1}><bin_{2}><bin_{3}>"),
}
"""Forms that a switch of the published formatter asks for and no recipe sets."""
EXACT = 1e-6


def text(case: Case, report: Report) -> None:
    """Every way in which the published formatters write boxes, and what its reader takes out of texts."""
    for number, one in enumerate(case.data["format_cases"]):
        size, names = (one["height"], one["width"]), one["names"]
        found = write(one["boxes"], size, SIDE, names, from_left=True)
        ours = {
            "det_text": found.text,
            "vg_text": write(one["boxes"], size, SIDE, names).text,
            "reg_text": f"What is {write(one['boxes'], size, SIDE).text}?",
        }
        for key, grammar in OTHER_FORMS.items():
            written = grammar.write(np.array(one["reordered"], np.float64), (SIDE, SIDE), one["reordered_names"])
            ours[key] = written.text if written.rows else NOTHING_LEFT
        for key, value in ours.items():
            report.equal(f"format_cases.{number}.{key}", value, one[key])
        read = [{"category_name": name, "bbox": list(box)} for name, box in extract(one["det_text"])]
        report.equal(f"format_cases.{number}.extract_det", read, one["extract_det"])
        report.equal(f"format_cases.{number}.rows", len(found.rows), len(read))
    for number, one in enumerate(case.data["extract_cases"]):
        found = [{"category_name": name, "bbox": list(box)} for name, box in extract(one["text"])]
        report.equal(f"extract_cases.{number}", found, one["extract"])
    _scores(case, report)


def _scores(case: Case, report: Report) -> None:
    for one in case.data["score_cases"]:
        number = one["index"]
        ids, table = case.tensors[f"ids{number}"][0].tolist(), case.tensors[f"probs{number}"]
        marks = Marks(one["start_token"], one["end_token"])
        found = confidence(ids, table.max(1).values.tolist(), marks)
        report.close(f"scores{number}", found, case.tensors[f"scores{number}"], absolute=EXACT)
        report.close(f"score_cases.{number}", found, one["scores"], absolute=EXACT)
        report.equal(f"score_cases.{number}.objects", len(found), one["objects"])
        report.covers(f"ids{number}", f"probs{number}")


def geometry(case: Case, report: Report) -> None:
    """Overlaps of boxes and their other layouts."""
    given = case.tensors
    a, b = given["a"], given["b"]
    iou = pairwise_iou(a, b)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    union = areas[0][:, None] + areas[1] - (high - low).clamp(min=0).prod(2)
    ours = {
        "iou": iou,
        "union": union,
        "giou": pairwise_giou(a, b),
        "xywh": xyxy_to_xywh(a),
        "cxcywh": xyxy_to_cxcywh(a),
    }
    for name, value in ours.items():
        report.close(name, value, given[name], absolute=EXACT, relative=EXACT)
    report.covers("a", "b")


KINDS: dict[str, Check] = {"boxes_text": text, "box_geometry": geometry}
