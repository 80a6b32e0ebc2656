"""Golden rewards of Vision-R1: what is read of answers, and what they are worth at several steps."""

import json

from mmcore.evaluate.box_rewards import Truth, format_reward, precision_reward, read_boxes, recall_reward
from mmcore.parity import Case, Check, Report


def check_rewards(case: Case, report: Report) -> None:
    """Boxes read, and the three rewards of every answer, adaptive and not."""
    data, limits = case.data, {"absolute": float(case.data["tolerances"])}
    answers = data["completions"]
    found = [[{"bbox": list(one.box), "category_name": one.label} for one in read_boxes(text)] for text in answers]
    report.equal("extracted", found, data["extracted"])
    truths = [
        Truth(
            boxes=[(name, box) for name, box in json.loads(data["solution"][i])],
            classes=data["target_id_map"],
            size=(data["width"][i], data["height"][i]),
            seen=(data["input_width"][i], data["input_height"][i]),
            count=data["num_instances"][i],
        )
        for i in range(len(answers))
    ]
    for when, expected in data["rewards"].items():
        step = None if when == "None" else int(when)
        actual = {
            "precision": [precision_reward(text, truth, step) for text, truth in zip(answers, truths, strict=True)],
            "recall": [recall_reward(text, truth, step) for text, truth in zip(answers, truths, strict=True)],
            "dual_format": [format_reward(text, truth.count) for text, truth in zip(answers, truths, strict=True)],
        }
        for name, values in expected.items():
            report.close(f"{name} at step {when}", actual[name], values, **limits)


KINDS: dict[str, Check] = {"vision_r1_rewards": check_rewards}
