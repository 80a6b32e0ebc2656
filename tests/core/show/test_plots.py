import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.errors import CheckpointError
from mmcore.show import plots
from mmcore.show.plots import choose_metrics, group_losses, plot_comparison, plot_curves, read_curves, smooth
from PIL import Image


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_resumed_step_counts_as_logged_last_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = write(
        tmp_path / "metrics.jsonl",
        {"step": 1, "total": 3.0, "losses": {"ce": 3.0}, "lr": 0.1},
        {"step": 2, "total": 9.0, "losses": {"ce": 9.0}, "lr": 0.1},
        {"step": 2, "total": 2.0, "losses": {"ce": 2.0}, "lr": 0.2},
        {"step": 2, "eval": {"coco_val/bbox/AP50": 0.25}},
    )
    with path.open("a") as file:
        file.write('{"step": 3, "tot')
    curves = read_curves(path)
    assert (curves.steps, curves.total) == ([1, 2], [3.0, 2.0])
    assert curves.rates == ([1, 2], [0.1, 0.2])
    assert curves.metrics == {"coco_val/bbox/AP50": ([2], [0.25])}


@pytest.mark.parametrize(
    "records",
    [
        [{"step": 1, "total": 1.0}],
        [{"step": 0, "eval": {"coco_val/bbox/AP": 0.0}}],
        [{"step": s, "total": 100.0 / s, "losses": {"a_0": 1.0, "a_1": 2.0}, "lr": 1e-4} for s in range(1, 90)],
        [{"step": 1, "total": float("nan"), "losses": {"a": float("inf")}, "lr": {"x": 0.1, "y": 0.2}}],
    ],
)
def test_whatever_was_logged_gives_a_picture(tmp_path: Path, records: list[object]) -> None:
    write(tmp_path / "metrics.jsonl", *records)
    with Image.open(plot_curves(tmp_path)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_a_run_that_logged_nothing_says_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(CheckpointError):
        plot_curves(tmp_path)


def test_smoothing_keeps_constants_and_length_and_leaves_nan_out() -> None:
    assert np.allclose(smooth([2.0] * 50), 2.0)
    values = smooth([1.0, float("nan"), 3.0])
    assert len(values) == 3
    assert np.isfinite(values).all()


def test_terms_of_decoder_layers_are_summed_under_one_name() -> None:
    layers = {
        "track_loss": 0.0,
        "loss_ce": 1.0,
        "loss_ce_0": 2.0,
        "loss_ce_interm": 4.0,
        "loss_box_dn": 8.0,
        "loss_box": 1.0,
    }
    groups = group_losses({name: ([1, 2], [value, value]) for name, value in layers.items()})
    assert groups == {"ce": ([1, 2], [7.0, 7.0]), "box": ([1, 2], [9.0, 9.0])}


def test_headline_metrics_are_chosen() -> None:
    names = ["a/bbox/AP", "a/bbox/APs", "a/bbox/AP50", "b/segm/oIoU"]
    assert choose_metrics(names) == ["a/bbox/AP", "a/bbox/AP50", "b/segm/oIoU"]
    assert choose_metrics(["x/odd"]) == ["x/odd"]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two runs `a` and `b` whose scores are all zero, and the figures that are drawn of them."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, output: figures.append(figure) or output)
    for name in "ab":
        (tmp_path / name).mkdir()
        found = {"val/bbox/AP": 0.0, "val/bbox/AP50": 0.0, "val/loss": 2.0}
        records = [{"step": 1, "total": 3.0, "lr": 1e-4}, {"step": 2, "total": 2.5, "lr": 1e-4}]
        lines = [*records, {"step": 2, "eval": found}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return figures


def test_panels_of_shares_begin_at_zero_and_the_lowest_of_a_column_says_its_steps(
    tmp_path: Path, drawn: list[Any]
) -> None:
    plot_comparison({name: tmp_path / name for name in "ab"}, tmp_path / "c.png")
    axes = [axis for axis in drawn[0].axes if axis.get_visible()]
    scores = [axis for axis in axes if axis.get_title().endswith("percent")]
    assert [axis.get_ylim() for axis in scores] == [(0, 1), (0, 1)]
    says = [axis.xaxis.get_tick_params()["labelbottom"] for axis in axes]
    assert says == [False, False, True, True, True]


def test_the_training_loss_is_named_beside_that_of_validation(tmp_path: Path, drawn: list[Any]) -> None:
    plot_curves(tmp_path / "a")
    legend = drawn[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["training", "val/loss"]
