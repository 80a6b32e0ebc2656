"""Golden cases of conversations, data sets, orders, boxes and evaluations."""

import mmcore_griffon.parity as package
import pytest
from mmcore.parity import Case, Report, checks_of

KINDS = checks_of(package)

CASES = (
    *(f"conv_{name}" for name in ("gemma", "llama", "llama3", "llama_legacy", "qwen2", "qwen25")),
    *(f"data_{name}" for name in ("gemma", "llama", "qwen25")),
    "eval_detection",
    "eval_rec",
    "eval_vqa",
    "samplers",
    "boxes_text",
    "box_geometry",
)


@pytest.mark.parametrize("name", CASES)
def test_every_stored_quantity_agrees(shared, name: str) -> None:
    case = Case(shared / "goldens/griffon" / name)
    report = Report(case)
    check = next(check for prefix, check in KINDS.items() if name.startswith(prefix))
    check(case, report)
    wrong = [line for line in report.lines if not line.ok]
    assert not wrong
    assert report.finish()
