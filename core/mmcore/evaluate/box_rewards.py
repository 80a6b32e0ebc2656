"""Vision-R1's rewards (Zhan et al. 2025, arXiv 2503.18013, section 3): how good a written list of boxes is, as rules.

    format      it is JSON, and every entry with a box and a label has a box of four numbers
    recall      how many of the true boxes were found
    precision   how well the found boxes fit

Plain functions of one answer; a reinforcement stage sums them over the answers that it drew. Predicted and true boxes
are paired for the least sum of distance, class and generalised IoU, and judged by the latter.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmcore.geometry.boxes import pairwise_giou

TIGHTEN_AT = 1500
"""Step from which adaptive thresholds are stricter."""
FAR = 10**6
"""Pixels beyond which a number is no place in a picture."""
_ENTRY = re.compile(
    r'\{"bbox_2d": \[(\d{1,3}|1000), (\d{1,3}|1000), (\d{1,3}|1000), (\d{1,3}|1000)\], "label": "([^"]+)"\}'
)
"""What is still read out of an answer that is no JSON; published."""


class LabelledBox(NamedTuple):
    """A box as an answer wrote it."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom; pixels of the picture as the model saw it."""
    label: Any
    """Usually a class name; whatever the answer had there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What is in a picture."""

    boxes: Sequence[tuple[str, Sequence[float]]]
    """Class name and box; pixels of the original picture."""
    classes: Mapping[str, int]
    """Class name -> number from 1; 0 is anything else."""
    size: tuple[float, float]
    """Width and height of the original picture."""
    seen: tuple[float, float]
    """Width and height of the picture as the model saw it."""
    count: int
    """Objects in the picture; normally the number of boxes."""


def read_boxes(answer: str) -> list[LabelledBox]:
    """Every well-formed box of an answer; what stands in broken JSON is looked for entry by entry."""
    found = _parse(answer)
    boxes = [box for entry in found if (box := _box(entry)) is not None] if isinstance(found, list) else []
    entries = [LabelledBox((int(a), int(b), int(c), int(d)), label) for a, b, c, d, label in _ENTRY.findall(answer)]
    return _not_empty(boxes) or _not_empty(entries)


def _not_empty(boxes: Sequence[LabelledBox]) -> list[LabelledBox]:
    return [one for one in boxes if one.box[0] < one.box[2] and one.box[1] < one.box[3]]


def format_reward(answer: str, count: int) -> float:
    """1 for JSON whose boxes have four numbers, else 0; the other way round where there is nothing to find."""
    text = re.sub(r"```json\n|\n```", "", answer).strip()
    try:
        entries = json.loads(text)
    except ValueError:
        well = False
    else:
        items = entries if isinstance(entries, list) else []
        boxes = [item["bbox_2d"] for item in items if isinstance(item, dict) and {"bbox_2d", "label"} <= item.keys()]
        well = all(isinstance(box, list) and len(box) == 4 for box in boxes)
    return float(well) if count > 0 else float(not well)


def recall_reward(answer: str, truth: Truth, step: int | None = None) -> float:
    """Share of the true boxes that a predicted one overlaps.

    Args:
        answer: of the model.
        truth: of its picture.
        step: optimiser step of adaptive thresholds: pairs count from an IoU of 0.5, later 0.75, and a recall below 0.5
            is none, one above 0.75 full; None is not adaptive.
    """
    if (overlaps := _overlaps(answer, truth)) is None:
        return float(truth.count <= 0)
    least = 0.75 if step is not None and step >= TIGHTEN_AT else 0.5
    recall = float(_clip(overlaps, least, least).sum() / max(truth.count, 1))
    return float(_clip(torch.tensor([recall]), *((0.0, 1.0) if step is None else (0.5, 0.75)))[0])


def precision_reward(answer: str, truth: Truth, step: int | None = None) -> float:
    """Mean generalised IoU of the pairs.

    Args:
        answer: of the model.
        truth: of its picture.
        step: optimiser step of adaptive thresholds: below 0.5 (later 0.75) a pair is worth nothing, above 0.75 (0.9)
            everything; None is not adaptive.
    """
    if (overlaps := _overlaps(answer, truth)) is None:
        return float(truth.count <= 0)
    limits = (0.0, 1.0) if step is None else (0.5, 0.75) if step < TIGHTEN_AT else (0.75, 0.9)
    return float(_clip(overlaps, *limits).mean())


def _overlaps(answer: str, truth: Truth) -> Tensor | None:
    """Generalised IoU of every pair; zeros where boxes were written and there are none; None without any box."""
    found = read_boxes(answer)
    if not found:
        return None
    if not truth.boxes:
        return torch.zeros(len(found))  # published code fails here
    numbers = {name.lower(): number for name, number in truth.classes.items()}
    scale = torch.tensor([*truth.size, *truth.size]), torch.tensor([*truth.seen, *truth.seen])
    boxes = torch.tensor([one.box for one in found], dtype=torch.float32) / scale[1] * scale[0]
    wanted = torch.tensor([box for _, box in truth.boxes], dtype=torch.float32)
    labels = [one.label if isinstance(one.label, str) else "" for one in found]
    classes = torch.tensor([numbers.get(label.strip().lower(), 0) for label in labels])
    targets = torch.tensor([numbers[name.lower()] for name, _ in truth.boxes])
    overlap = pairwise_giou(boxes, wanted)
    cost = torch.cdist(boxes, wanted, p=1) - (classes[:, None] == targets).float() - overlap
    rows, columns = linear_sum_assignment(cost.numpy())
    return overlap[torch.from_numpy(rows), torch.from_numpy(columns)]


def _clip(values: Tensor, low: float, high: float) -> Tensor:
    """Nothing below `low`, everything above `high`."""
    return values.masked_fill(values < low, 0.0).masked_fill(values > high, 1.0)


def _parse(answer: str) -> Any:
    """The JSON of an answer, a code fence around it taken off; None when it is none."""
    lines = answer.strip().splitlines()
    text = "\n".join(lines[1:]) if lines and lines[0].startswith("```json") else answer.strip()
    try:
        return json.loads(text.split("```")[0])
    except ValueError:
        return None


def _box(entry: Any) -> LabelledBox | None:
    """An entry of the list as a box; None where it is none."""
    box = entry.get("bbox_2d") if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return None
    try:
        left, top, right, bottom = (int(side) for side in box)
    except (TypeError, ValueError, OverflowError):
        return None
    if max(abs(side) for side in (left, top, right, bottom)) > FAR:
        return None
    return LabelledBox((left, top, right, bottom), entry.get("label"))
