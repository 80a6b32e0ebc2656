"""How `mmcore data formats` shows the registry of annotation formats."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from mmcore.data.formats.registry import Formats


def rows(formats: "Formats") -> list[dict[str, Any]]:
    """Plain values of every format, in the order of the registry."""
    return [
        {
            "name": name,
            "title": format.title,
            "tasks": list(format.tasks),
            "files": list(format.files),
            "options": {key: str(field.annotation) for key, field in format.options.model_fields.items()},
            "evaluator": format.evaluator,
            "recognised": format.sniff is not None,
        }
        for name, format in formats.items()
    ]


def table(found: list[dict[str, Any]]) -> "Table":
    """The same for people."""
    from rich.table import Table

    shown = Table("format", "serves", "options", "evaluated by", "what it is", show_edge=False, pad_edge=False)
    for row in found:
        options = ", ".join(row["options"]) or "-"
        shown.add_row(row["name"], ", ".join(row["tasks"]), options, row["evaluator"] or "-", row["title"])
    return shown
