"""Own data in every format of objects: found, drawn as the network sees it, stepped once, and judged."""

from pathlib import Path

import pytest
import torch
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Draw
from mmcore.data.formats.registry import Formats
from mmcore.evaluate.run import evaluate
from mmcore.runs.own import with_own
from mmcore.show.batch import draw_batch
from mmcore_glee import family
from mmcore_glee.data import build
from mmcore_glee.data.assemble import LEARNS
from mmcore_glee.model import build as build_model
from mmcore_glee.recipes import stages

FORMATS = Formats.of()
FINETUNE = stages("tiny")[-1]
SERVING = [name for name in FORMATS.serving(LEARNS) if FORMATS[name].sample and FORMATS[name].sniff]


@pytest.fixture(scope="module")
def model():
    """A tiny GLEE, whose weights no test changes."""
    torch.manual_seed(0)
    return build_model(FINETUNE, "tiny")


def described(root: Path, name: str) -> tuple[Stage, list[str]]:
    """The fine-tune on a format's sample, described by an own-data file without a format."""
    write = FORMATS[name].sample
    assert write is not None
    written = write(root)
    several = isinstance(written.annotations, tuple)
    annotations = list(written.annotations) if several else written.annotations or "."
    file = f"{{annotations: {annotations}, images: '{written.images}'}}"
    judged = f"\nval: {file}" if FORMATS[name].evaluator else ""
    (root / "own.yaml").write_text(f"name: mine\ntrain: {file}{judged}\n")
    return with_own(FINETUNE, root / "own.yaml", FORMATS, family().learns, root / "cache")


@pytest.mark.parametrize("name", SERVING)
def test_a_sample_of_the_format_is_drawn_and_stepped_once(tmp_path: Path, name: str, model) -> None:
    stage, _ = described(tmp_path, name)
    assert stage.data.sources["mine"].format == name
    data = build(stage, "train", DataContext(tmp_path, tmp_path / "cache", "tiny", 0))
    source = data.sources["mine"]
    samples = [source.sample(Draw("mine", position, 7)) for position in range(min(2, len(source)))]
    batch = data.collate["mine"](samples, 0)
    assert sum(batch.num_objects) > 0
    assert (batch.masks is not None) == (FORMATS[name].has_masks or name in ("RefCOCO", "RefCOCO-COCO"))
    assert len(draw_batch(batch, data.collate["mine"])) == len(samples)
    losses = model.train()(batch)
    total = sum(loss.total for loss in losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", [name for name in SERVING if FORMATS[name].evaluator])
def test_a_sample_of_the_format_is_judged(tmp_path: Path, name: str, model) -> None:
    stage, _ = described(tmp_path, name)
    data = build(stage, "val", DataContext(tmp_path, tmp_path / "cache", "tiny", 0))
    metrics = evaluate(model, data, stage, "mine_val", limit=2, progress=False)
    assert FORMATS[name].metric in metrics
    assert 0.0 <= metrics[FORMATS[name].metric] <= 1.0  # type: ignore[index]


def test_own_class_names_are_the_vocabulary(tmp_path: Path) -> None:
    stage, _ = described(tmp_path, "YOLO boxes")
    data = build(stage, "train", DataContext(tmp_path, tmp_path / "cache", "tiny", 0))
    names = (tmp_path / "data.yaml").read_text().split("names:\n")[1]
    assert data.collate["mine"].vocabulary == tuple(line.split(": ")[1] for line in names.splitlines())
