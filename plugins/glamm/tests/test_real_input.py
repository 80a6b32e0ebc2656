"""Excerpts of the published sets in their own layouts: every record is read, drawn and trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmcore.contract.mixture import WholeEpochs
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Data, Source, Stage
from mmcore.contract.values import Draw
from mmcore.data.formats.grand import Grand
from mmcore.show.batch import draw_batch
from mmcore_glamm import recipe_sources as published
from mmcore_glamm.build import build as build_model
from mmcore_glamm.data import build
from mmcore_glamm.recipes import stages

STAGE = {stage.name: stage for stage in stages("tiny")}["gcg"]


def entry(given: dict[str, Any], **changes: Any) -> Source:
    options = {**given.get("options", {}), **changes.pop("options", {})}
    return Source(weight=1.0, **{**given, "group": None, **changes, "options": options})


def on(sources: dict[str, Source]) -> Stage:
    data = Data(sources=sources, mixture=WholeEpochs())
    return STAGE.replace(data=data, validation={}, best_metric=None)


FOLDERS = {
    "refcoco_mini": {
        "refcoco": entry(published.REFERRING["refcoco"], options={"split": "val"}),
        "refcoco_plus": entry(published.REFERRING["refcoco_plus"], options={"split": "testA"}),
        "refcocog": entry(published.REFERRING["refcocog"], options={"split": "val"}),
        "regions": entry(
            published.REGIONS["refcocog_reg"], annotations=f"{published.MDETR}/finetune_refcocog_val.json"
        ),
    },
    "ferret_bench_mini": {"genome": entry(published.REGIONS["visual_genome_reg"], images="val2017")},
    "coco_panoptic_mini": {"stuff": entry(published.SEMANTICS["cocostuff"])},
    "ade20k_mini": {"ade20k": entry(published.SEMANTICS["ade20k"])},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_records_are_read_drawn_and_trained_on(folder: str, shared: Path, tmp_path: Path) -> None:
    stage = on(FOLDERS[folder])
    datasets = build(stage, "train", DataContext(shared / "data" / folder, tmp_path, "tiny", 0))
    torch.manual_seed(0)
    model = build_model(stage, "tiny")
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    for name, source in datasets.sources.items():
        samples = [source.sample(Draw(name, position, 7)) for position in range(len(source))]
        assert all(sample is not None for sample in samples)
        batch = datasets.collate[name](samples[:2], 0)
        assert len(draw_batch(batch, datasets.collate[name])) == len(batch)
        for _ in range(2):
            losses = model(batch)
            loss = sum(one.total / batch.normalisers[one.per] for one in losses.values() if batch.normalisers[one.per])
            assert torch.isfinite(loss)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@pytest.mark.parametrize("level", ["level_3_dense_caption", "level_4_extra_context"])
def test_raw_grand_files_are_read(level: str, shared: Path) -> None:
    folder = shared / "data" / "grand_examples" / level
    captions, expressions = Grand(folder, "caption")[0], Grand(folder, "expression")[0]
    assert captions.image == expressions.image == "sa_302406.jpg"
    assert captions.parts[0].text == "a narrow street with tables and chairs in front of colorful buildings"
    assert all(part.box_xyxy for part in expressions.parts)
