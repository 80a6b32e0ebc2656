"""Griffon's own annotation formats: the JSON Lines of each kind, and how those of the core are asked."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.evaluate.short_answers import FORMATS as QUESTIONS

from mmcore_griffon.data.lines import Kind, LineOptions, LineParser

KINDS: Mapping[str, Kind] = {f"{kind} lines": kind for kind in ("DET", "RANDDET", "VISJ", "VG", "REG", "REC")}  # type: ignore[misc]
"""Format -> kind of its lines."""
ASKED: Mapping[str, tuple[Kind, ...]] = {
    "detect": ("DET", "VG"),
    "refer": ("REC",),
    "ground": ("VG",),
    "region_caption": ("REG",),
}
"""Task of a format of the core -> how its records are asked in training; one is drawn."""


def _write(kind: Kind, folder: Path) -> Written:
    miniature.write_pictures(folder / "images")
    lines: list[dict[str, Any]] = []
    for scene in miniature.scenes():
        things = miniature.objects(scene)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (thing.box_xywh for thing in things)]
        size = {"height": scene.height, "width": scene.width}
        where = {"img_path" if kind == "REC" else "image_path": miniature.file_name(scene), **size}
        if kind in ("DET", "RANDDET", "VISJ"):
            kinds = dict.fromkeys(thing.kind for thing in things)
            objects = [
                {"category_name": name, "bboxes": [box for box, thing in zip(boxes, things) if thing.kind == name]}
                for name in kinds
            ]
            lines.append({**where, "dataset_name": "sample", "objects": objects})
        else:
            key, given = {"REC": ("bbox", boxes[0]), "REG": ("bboxes", boxes[0])}.get(kind, ("bboxes", boxes[:1]))
            lines.append({**where, "expression": f"the {things[0].colour} {things[0].kind}".strip(), key: given})
    miniature.write_lines(folder / "lines.jsonl", lines)
    return Written("lines.jsonl", "images")


def _sniff(kind: Kind, glimpse: Glimpse) -> bool:
    if kind == "REC":
        return glimpse.records_have("img_path", "expression", "bbox")
    if kind in ("DET", "VISJ"):
        named = glimpse.records_have("dataset_name")
        return glimpse.records_have("image_path", "objects") and named == (kind == "DET")
    if kind == "RANDDET" or not glimpse.records_have("image_path", "expression", "bboxes"):
        return False
    boxes = glimpse.first["bboxes"] if isinstance(glimpse.first, dict) else None
    listed = isinstance(glimpse.first.get("expression"), list) if isinstance(glimpse.first, dict) else False
    flat = isinstance(boxes, list) and bool(boxes) and not isinstance(boxes[0], list)
    return (listed or flat) == (kind == "REG")


def _format(kind: Kind, short: str, title: str, task: str, metric: str | None) -> Format:
    return Format(
        name=f"{kind} lines",
        short=(short,),
        title=title,
        content="own",
        tasks=(task,),
        metric=metric,
        parser=lambda files, options: LineParser(files[0], kind, options.box_tolerance_px),
        options=LineOptions,
        sniff=partial(_sniff, kind),
        sample=partial(_write, kind),
    )


FORMATS = (
    *QUESTIONS,
    _format("DET", "det", "a picture's classes with their boxes, one picture a line", "detect", "bbox/AP"),
    _format("RANDDET", "randdet", "the same, asked for by exactly these classes", "detect", "bbox/AP"),
    _format("VISJ", "visj", "the same, of which one class is shown by an example and counted", "count", None),
    _format("VG", "vg", "an expression with its boxes, or with none", "ground", "any"),
    _format("REG", "reg", "a box with its description", "region_caption", None),
    _format("REC", "rec", "an expression with its one box, for evaluation", "refer", "accuracy@0.5"),
)
