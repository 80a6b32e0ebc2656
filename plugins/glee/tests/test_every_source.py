"""Every source of every published stage, in its own format, folders and vocabulary: read, drawn as `mmcore data show`
draws, and stepped once; every validation set of videos judged by its protocol.

A miniature has the form of the format's sample; what differs between data sets stands here: where their files lie, and
which names their categories have.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.contract.values import Draw
from mmcore.data.formats.registry import Formats
from mmcore.evaluate.run import evaluate
from mmcore.show.batch import draw_batch
from mmcore.show.marks import PALETTE
from mmcore_glee import vocabulary
from mmcore_glee.data import build
from mmcore_glee.data.tasks import task_named
from mmcore_glee.model import build as build_model
from mmcore_glee.recipes import stages
from PIL import Image

FORMATS = Formats.of()
FINETUNE = next(stage for stage in stages("tiny") if stage.name == "finetune")


def entries() -> list[Any]:
    """Distinct sources of all sizes and stages, each with the first stage that has it."""
    found: dict[tuple[Any, ...], Any] = {}
    for size in ("lite", "plus", "pro"):
        for stage in stages(size):
            for name, entry in stage.data.sources.items():
                key = entry.format, entry.options["task"], str(entry.annotations), entry.images
                found.setdefault(key, pytest.param(size, stage, name, id=f"{size}-{stage.number}-{name}"))
    return list(found.values())


def validations() -> list[Any]:
    """Distinct validation sets of videos, each with the first stage that has it."""
    found: dict[str, Any] = {}
    for size in ("lite", "pro"):
        for stage in stages(size):
            for name, entry in stage.validation.items():
                if FORMATS[entry.format].content == "videos":
                    found.setdefault(name, pytest.param(size, stage, name, id=f"{size}-{stage.number}-{name}"))
    return list(found.values())


def has_marks(picture: Image.Image) -> bool:
    """Whether anything is marked in it, in one of the colours of marks."""
    pixels = {tuple(colour) for colour in np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0).tolist()}
    return any(tuple(colour) in pixels for colour in PALETTE)


def miniature(root: Path, entry: Source | Validation) -> None:
    """The sample of the entry's format, where the entry looks for it, with its task's names."""
    write = FORMATS[entry.format].sample
    assert write is not None
    written = write(root / "sample")
    assert isinstance(written.annotations, str)
    assert isinstance(entry.annotations, str)
    assert entry.images is not None
    content = json.loads((root / "sample" / written.annotations).read_text())
    names = vocabulary.names(task_named(entry.options["task"], "").vocabulary)
    if len(content["categories"]) > 1:
        count = len(content["categories"])
        fresh = list(names) if len(names) < count else names[-count:]
        places = {category["id"]: number % len(fresh) for number, category in enumerate(content["categories"])}
        kept = zip(content["categories"], fresh, strict=False)  # a vocabulary may be smaller than the sample's
        content["categories"] = [{**one, "id": id_, "name": name} for id_, (one, name) in enumerate(kept, 1)]
        for annotation in content["annotations"]:
            annotation["category_id"] = places[annotation["category_id"]] + 1
    target, images = root / "data" / entry.annotations, root / "data" / entry.images
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    images.parent.mkdir(parents=True, exist_ok=True)
    folder = root / "sample" / written.images
    if not images.exists():
        folder.rename(images)
    else:  # annotations lie among the images, as ODinW's do
        for path in folder.iterdir():
            path.rename(images / path.name)


def context(root: Path, name: str) -> DataContext:
    return DataContext(root / "data", root / "cache", "tiny", 0, (name,))


def small(stage: Stage, size: str) -> Stage:
    """The stage with pictures that a tiny model takes in no time."""
    assert FINETUNE.data.transform is not None
    squared = {"image_size": 128} if size == "pro" else FINETUNE.data.transform
    return stage.replace(data=stage.data.replace(transform={**(stage.data.transform or {}), **squared}))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(FINETUNE, "tiny")


@pytest.mark.parametrize(("size", "stage", "name"), entries())
def test_a_source_is_read_drawn_and_stepped(tmp_path: Path, size: str, stage: Stage, name: str, model) -> None:
    miniature(tmp_path, stage.data.sources[name])
    data = build(small(stage, size), "train", context(tmp_path, name))
    source = data.sources[name]
    assert len(source) > 0
    drawn = (source.sample(Draw(name, position % len(source), 5 + position)) for position in range(20))
    samples = [sample for sample in drawn if sample is not None and len(sample.labels)][:2]
    batch = data.collate[name](samples, 0)
    assert sum(batch.num_objects) > 0
    pictures = draw_batch(batch, data.collate[name])
    assert len(pictures) == len(samples)
    assert any(has_marks(picture) for picture in pictures)
    losses = model.train()(batch)
    total = sum(loss.total for loss in losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("size", "stage", "name"), validations())
def test_videos_are_judged_by_the_protocol_of_their_data(
    tmp_path: Path, size: str, stage: Stage, name: str, model
) -> None:
    entry = stage.validation[name]
    if entry.options.get("protocol"):
        pytest.importorskip("trackeval", reason="pip install 'mmcore-trainer[video]'")
    miniature(tmp_path, entry)
    data = build(small(stage, size), "val", context(tmp_path, name))
    metrics = evaluate(model, data, stage, name, folder=tmp_path / "out", limit=2, progress=False)
    assert set(entry.metrics) <= set(data.evaluators[name]().metric_names)
    assert metrics
    assert all(np.isfinite(value) for value in metrics.values())
    left = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {"burst": "burst.json", "mot": "mot", None: "predictions.json", "tao": "predictions.json"}
    assert {"rvos": "Annotations"}.get(entry.options["task"], wanted[entry.options.get("protocol")]) in left
