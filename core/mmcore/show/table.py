"""Every number that runs logged, as comma-separated values for a spreadsheet or pandas."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcore.base.files import replace_text
from mmcore.train.metrics import read


def write_csv(path: Path, logs: Mapping[str, Path]) -> None:
    """Write one row per logged line of each `metrics.jsonl`; nested entries are columns `losses/text`.

    Args:
        path: replaced when it exists.
        logs: label of each run -> its `metrics.jsonl`.
    """
    rows = [{"run": label, **_flat(record)} for label, log in logs.items() for record in read(log)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}/")
        else:
            result[f"{prefix}{key}"] = value
    return result
