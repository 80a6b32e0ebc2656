"""How a detector is right and wrong, as pictures: precision by recall, and which class is taken for which.

Drawn from the `curves.json` that an evaluation of boxes or masks leaves.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmcore.base.jsonfile import read_json
from mmcore.show.text import families, missing_letters

PRECISION_NAME, CONFUSION_NAME = "precision-recall.png", "confusion.png"
MOST_CLASSES = 24
"""Of more classes, those with most objects and mistakes are drawn, the others together."""
_KINDS = {"bbox": "boxes", "segm": "masks"}
_COLOURS = {"0.5": "#0072b2", "0.75": "#e69f00", "0.9": "#cc79a7", "0.5:0.95": "#000000"}


def draw_detection(curves: Path, folder: Path) -> list[Path]:
    """Both pictures of one evaluation, as far as there is something to draw.

    Args:
        curves: the file that the evaluation wrote.
        folder: gets the pictures.
    """
    found = read_json(curves, {})
    drawn = []
    kinds = {kind: found[kind] for kind in _KINDS if found.get(kind)}
    if kinds:
        drawn.append(_precision(kinds, folder / PRECISION_NAME))
    if found.get("confusion"):
        drawn.append(_confusion(found["confusion"], folder / CONFUSION_NAME))
    return drawn


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _precision(kinds: Mapping[str, Any], path: Path) -> Path:
    figure = _figure(5.6 * len(kinds), 5)
    for axis, (kind, curves) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        recall = 100 * np.asarray(curves["recall"])
        for name, values in curves["precision"].items():
            precision = 100 * np.asarray(values)
            label = f"IoU {name}: AP {precision.mean():.1f}"
            axis.plot(recall, precision, color=_COLOURS.get(name), linewidth=2.4 if ":" in name else 1.4, label=label)
        axis.set(xlim=(0, 100), ylim=(0, 102), xlabel="recall, percent", ylabel="precision, percent")
        axis.set_title(f"{_KINDS[kind]}, mean of the classes", fontsize=11)
        axis.legend(frameon=False, fontsize=9, loc="upper right")
        axis.grid(True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path


def seen(
    counts: Int[np.ndarray, "classes_and_none classes_and_none"], classes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Without the classes of which there is neither an object nor a detection."""
    kept = np.flatnonzero((counts[:-1].sum(1) + counts[:, :-1].sum(0)) > 0)
    chosen = np.append(kept, len(classes))
    return counts[np.ix_(chosen, chosen)], [classes[place] for place in kept]


def largest(
    counts: Int[np.ndarray, "classes_and_none classes_and_none"], classes: list[str], most: int
) -> tuple[np.ndarray, list[str]]:
    """The counts of the classes with most objects and detections, the others summed under one name, none last."""
    if len(classes) <= most:
        return counts, classes
    weight = counts[:-1].sum(1) + counts[:, :-1].sum(0)
    chosen = np.sort(np.argsort(-weight, kind="stable")[: most - 1])
    group = np.full(len(counts), most - 1)
    group[chosen], group[-1] = np.arange(len(chosen)), most
    summed = np.zeros((most + 1, most + 1), counts.dtype)
    rows, columns = np.meshgrid(group, group, indexing="ij")
    np.add.at(summed, (rows, columns), counts)
    rest = len(classes) - len(chosen)
    return summed, [*(classes[place] for place in chosen), f"{rest} others"]


def _confusion(found: Mapping[str, Any], path: Path) -> Path:
    counts, classes = seen(np.asarray(found["counts"], np.int64), list(found["classes"]))
    counts, classes = largest(counts, classes, MOST_CLASSES)
    size = max(4.5, 1.8 + 0.42 * len(counts))
    figure = _figure(size + 1.2, size)
    axis = figure.subplots()
    totals = counts.sum(1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if share[row, column] > 55 else "black"
        axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=ink)
    places, words = range(len(counts)), {"fontfamily": families(), "parse_math": False, "fontsize": 9}
    axis.set_xticks(places, [*classes, "not found"], rotation=45, ha="right", rotation_mode="anchor", **words)
    axis.set_yticks(places, [*classes, "nothing there"], **words)
    axis.set(xlabel="found", ylabel="true")
    title = f"objects, from score {found['score']:g} and IoU {found['overlap']:g}"
    axis.set_title(title, fontsize=11)
    if lost := missing_letters(classes):
        figure.supxlabel(lost, fontsize=8)
    figure.colorbar(image, ax=axis, shrink=0.7, label="percent of the row")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # it stands in the picture
        figure.savefig(path)
    return path
