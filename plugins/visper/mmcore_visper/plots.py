"""Probing as a picture: similarity against the layer, one line per task or model, as in figure 4 of the paper."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def plot_layers(curves: Mapping[str, Sequence[float]], output: Path, *, title: str = "what each layer holds") -> Path:
    """Draw similarity per layer.

    Args:
        curves: name -> value of every layer, from the first.
        output: the PNG; replaced when it exists.
        title: above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        layers = range(1, len(values) + 1)
        label = f"{name}  best {max(values):.3f}"
        axis.plot(layers, list(values), color=_COLOURS[number % len(_COLOURS)], marker="o", markersize=4, label=label)
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("layer of the language model")
    axis.set_ylabel("cosine with the teacher's features")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(True, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.png")
    figure.savefig(temporary)
    temporary.replace(output)
    return output
