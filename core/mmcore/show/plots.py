"""The curves of a run as one PNG: loss, learning rate and validation metrics against optimiser steps.

Reads what `mmcore.train.metrics` writes; a half-written last line, as a killed run leaves it, is passed over.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.base.figures import is_error, is_loss, scale, written
from mmcore.errors import CheckpointError, printable
from mmcore.train import metrics

PICTURE_NAME = "curves.png"

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a800")
_MOST_LOSSES = 8
"""More loss terms than this are drawn by their share of the total, largest first."""


@dataclass
class Curves:
    """What a run logged, by step."""

    steps: list[int] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    losses: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    rates: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    metrics: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)


def read_curves(path: Path) -> Curves:
    """The curves in a `metrics.jsonl`. A step that stands there twice counts as logged last.

    Raises:
        CheckpointError: there is no such file, or it holds no step.
    """
    curves = Curves()
    train: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, dict[str, float]] = {}
    for record in metrics.read(path):
        step = record["step"]
        if "total" in record:
            train[step] = record
        if isinstance(record.get("eval"), dict):
            evaluations.setdefault(step, {}).update(record["eval"])
    if not train and not evaluations:
        raise CheckpointError(
            "no step has been logged yet", where=path, do="wait for the first line, or see `mmcore runs`"
        )
    for step in sorted(train):
        record = train[step]
        curves.steps.append(step)
        curves.total.append(_number(record["total"]))
        for name, value in (record.get("losses") or {}).items():
            _append(curves.losses.setdefault(name, ([], [])), step, value)
        rate = record.get("lr")
        if rate is not None:
            # Several groups: the largest is the base rate.
            _append(curves.rates, step, max(rate.values()) if isinstance(rate, dict) else rate)
    for step in sorted(evaluations):
        for name, value in evaluations[step].items():
            _append(curves.metrics.setdefault(name, ([], [])), step, value)
    return curves


def plot_curves(run_dir: Path, *, output: Path | None = None, title: str | None = None) -> Path:
    """Draw the curves of a run.

    Args:
        run_dir: holds `metrics.jsonl`.
        output: the PNG; by default `curves.png` in the run folder. It is replaced when it exists.
        title: by default the folder's name.

    Returns:
        The path of the PNG.
    Raises:
        CheckpointError: the run has logged nothing yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_curves(Path(run_dir) / metrics.METRICS_NAME)
    # A figure of its own: no global state of pyplot, no display.
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title or Path(run_dir).resolve().name), fontsize=13)
    axes = figure.subplots(2, 2, sharex=True)
    _draw_total(axes[0, 0], curves)
    _draw_metrics(axes[0, 1], curves)
    _draw_losses(axes[1, 0], curves)
    _draw_rate(axes[1, 1], curves)
    for axis in axes.flat:
        axis.grid(True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimiser step")
    return _save(figure, Path(output) if output else Path(run_dir) / PICTURE_NAME)


def plot_comparison(runs: Mapping[str, Path], output: Path) -> Path:
    """Draw the loss, the validation metrics and the rates of several runs over one another.

    Args:
        runs: label -> run folder, which holds `metrics.jsonl`.
        output: the PNG; it is replaced when it exists.

    Raises:
        CheckpointError: one of them has logged nothing yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {label: read_curves(Path(folder) / metrics.METRICS_NAME) for label, folder in runs.items()}
    names = list(dict.fromkeys(name for curves in found.values() for name in curves.metrics))
    shown = [*filter(is_loss, names)][:2] + choose_metrics(names)[:4]
    panels: list[tuple[str, Any]] = [
        ("total loss (running mean)", lambda curves: (curves.steps, smooth(curves.total))),
        *((name + ("" if is_error(name) else ", percent"), partial(_in_percent, name)) for name in shown),
        ("learning rate", lambda curves: curves.rates),
    ]
    columns = 2 if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for place, (axis, (title, series)) in enumerate(zip(axes, panels)):
        axis.set_title(title, fontsize=11)
        lines = [series(one) for one in found.values()]
        drawn = [number for number, line in enumerate(lines) if _draw_series(axis, line, number)]
        if not drawn:
            _say(axis, "not logged")
        elif title.endswith("percent"):
            _from_zero(axis, [value for _, values in lines for value in values])
        axis.tick_params(labelbottom=place + columns >= len(panels))  # also above a place that stays empty
        axis.grid(True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("optimiser step")
    _log_scale_if_wide(axes[0], [value for curves in found.values() for value in curves.total])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = [
        axes[0].plot([], [], color=_colour(n), linewidth=2, label=printable(name))[0] for n, name in enumerate(found)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(found)), frameon=False)
    return _save(figure, Path(output))


def _in_percent(name: str, curves: Curves) -> tuple[list[int], list[float]]:
    steps, values = curves.metrics.get(name, ([], []))
    return steps, [scale(name) * value for value in values]


def _draw_series(axis: Any, series: tuple[Sequence[int], Sequence[float]], number: int) -> bool:
    """One run's line in one panel; whether there was anything to draw."""
    steps, values = series
    if not len(steps):
        return False
    axis.plot(
        steps, values, color=_colour(number), linewidth=1.6, marker="o" if len(steps) < 12 else None, markersize=3
    )
    return True


def _from_zero(axis: Any, values: Sequence[float]) -> None:
    """An axis of shares begins at zero, also where all of them are zero."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) and found.min() >= 0:
        axis.set_ylim(0, 1.05 * found.max() or 1)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _save(figure: Any, output: Path) -> Path:
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.png")
    figure.savefig(temporary)
    temporary.replace(output)
    return output


def smooth(values: Sequence[float], share: float = 0.05) -> np.ndarray:
    """A centred running mean over about this share of the points; values that are not finite are left out of it.

    Returns:
        (points,) float64, of the input's length.
    """
    found = np.asarray(values, np.float64)
    half = max(1, round(len(found) * share / 2))
    finite = np.isfinite(found)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, found, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    at = np.arange(len(found))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(found))
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)


def _append(series: tuple[list[int], list[float]], step: int, value: Any) -> None:
    series[0].append(step)
    series[1].append(_number(value))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _draw_total(axis: Any, curves: Curves) -> None:
    axis.set_title("total loss", fontsize=11)
    if not curves.steps:
        _say(axis, "no training step logged")
        return
    many = len(curves.steps) > 20
    axis.plot(curves.steps, curves.total, color=_COLOURS[0], alpha=0.3 if many else 1.0, linewidth=1, label="training")
    if many:
        axis.plot(curves.steps, smooth(curves.total), color=_COLOURS[0], linewidth=2, label="running mean")
    losses = [name for name in curves.metrics if is_loss(name)]
    for number, name in enumerate(losses[: len(_COLOURS) - 1], 1):
        axis.plot(*curves.metrics[name], color=_COLOURS[number], marker="o", markersize=3.5, label=name)
    if many or losses:
        axis.legend(frameon=False, fontsize=8)
    _log_scale_if_wide(axis, [*curves.total, *(value for name in losses for value in curves.metrics[name][1])])


def _draw_losses(axis: Any, curves: Curves) -> None:
    axis.set_title("loss terms (running means)", fontsize=11)
    groups = group_losses(curves.losses)
    if not groups:
        _say(axis, "no loss terms logged")
        return
    for number, (name, (steps, values)) in enumerate(groups.items()):
        axis.plot(steps, smooth(values), color=_COLOURS[number % len(_COLOURS)], linewidth=1.4, label=name)
    _log_scale_if_wide(axis, [value for _, values in groups.values() for value in values])
    axis.legend(frameon=False, fontsize=8, ncols=2)


def group_losses(losses: Mapping[str, tuple[list[int], list[float]]]) -> dict[str, tuple[list[int], list[float]]]:
    """Loss terms for one plot. Terms repeated per decoder layer (`loss_box_3`) are summed under one name; of many the
    largest are kept."""
    summed: dict[str, dict[int, float]] = {}
    for name, (steps, values) in losses.items():
        sums = summed.setdefault(_family_of(name), {})
        for step, value in zip(steps, values):
            sums[step] = sums.get(step, 0.0) + value
    groups = {name: (sorted(sums), [sums[step] for step in sorted(sums)]) for name, sums in summed.items()}
    size = {
        name: float(np.nanmean(np.abs(values))) for name, (_, values) in groups.items() if np.isfinite(values).any()
    }
    # Terms that never applied (a video loss on images) would only hide the others.
    largest = sorted((name for name in size if size[name] > 0), key=lambda name: -size[name])[:_MOST_LOSSES]
    return {name: groups[name] for name in groups if name in largest}


def _family_of(name: str) -> str:
    parts = [part for part in name.replace("/", "_").split("_") if not part.isdigit() and part not in ("interm", "dn")]
    return "_".join(parts).removeprefix("loss_") or name


def _draw_metrics(axis: Any, curves: Curves) -> None:
    axis.set_title("validation, percent", fontsize=11)
    shown = choose_metrics(list(curves.metrics))
    if not shown:
        _say(axis, "nothing but the loss is measured" if curves.metrics else "not evaluated yet")
        return
    sources = {name.split("/")[0] for name in shown}
    for number, name in enumerate(shown):
        steps, values = curves.metrics[name]
        label = name if len(sources) > 1 else name.split("/", 1)[-1]
        label += f"  {written(name, values[-1])}"  # beside the line's end, close curves would write over one another
        axis.plot(
            steps,
            [scale(name) * value for value in values],
            color=_COLOURS[number % len(_COLOURS)],
            marker="o",
            markersize=3.5,
            label=label,
        )
    values = [scale(name) * value for name in shown for value in curves.metrics[name][1]]
    if all(not np.isfinite(value) or 0 <= value <= 100 for value in values):
        axis.set_ylim(0, 102)
    axis.legend(frameon=False, fontsize=8)


def choose_metrics(names: Sequence[str]) -> list[str]:
    """The metrics worth a line each: of every validation set the headline ones, at most eight in all."""
    headline = (
        "AP",
        "AP50",
        "P@0.5",
        "oIoU",
        "gIoU",
        "cIoU",
        "METEOR",
        "CIDEr",
        "accuracy",
        "chance",
        "overall",
        "best",
    )
    figures = [name for name in names if not is_loss(name)]  # losses have a panel's scale of their own
    chosen = [name for name in figures if name.rsplit("/", 1)[-1] in headline]
    return (chosen or figures)[: len(_COLOURS)]


def _draw_rate(axis: Any, curves: Curves) -> None:
    axis.set_title("learning rate", fontsize=11)
    if not curves.rates[0]:
        _say(axis, "no learning rate logged")
        return
    axis.plot(*curves.rates, color=_COLOURS[1], linewidth=1.6)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axis.set_ylim(bottom=0)


def _log_scale_if_wide(axis: Any, values: Sequence[float]) -> None:
    """Logarithmic when the values span more than a factor of twenty and none is negative; zeros leave a gap."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found) & (found != 0)]
    if len(found) and found.min() > 0 and found.max() / found.min() > 20:
        axis.set_yscale("log", nonpositive="mask")


def _say(axis: Any, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="#888888")
