"""Frozen features, live or cached: the same numbers, one decision, told in a line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmcore import AdamW, Constant, Data, DataContext, Source, Stage
from mmcore.data.cache.choice import CachedFeatures, Demand, LiveFeatures, cache_job, choose
from mmcore.data.cache.fill import fill
from mmcore.data.images import read_image
from mmcore.errors import DataError, MissingDataError
from mmcore.vision.pixels import as_tensor, resize
from PIL import Image
from torch import nn


@dataclass(frozen=True)
class Means:
    """A network that says the mean colour of each quarter of a picture."""

    name: str = "sam"
    precision: str = "fp32"
    shape: tuple[int, ...] = (3, 2, 2)
    files: tuple[Path, ...] = ()
    version: int = 1

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"network": "means", "version": self.version, "precision": self.precision}

    def inputs(self, rgb: np.ndarray) -> torch.Tensor:
        return as_tensor(resize(rgb, (4, 4), Image.Resampling.BILINEAR))

    def load(self) -> nn.Module:
        return _Network()


class _Network(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pixels.float() / 255, 2)


@pytest.fixture
def context(tmp_path: Path) -> DataContext:
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).save(root / f"{number}.png")
    (root / "records.json").write_text("[1]")
    return DataContext(root=root, cache=tmp_path / "cache", variant="tiny", seed=0)


STAGE = Stage(
    number=1, name="first", title="the only stage", origin="assumed", steps=1, global_batch=1, micro_batch=1,
    data=Data(sources={"records": Source(weight=1.0, format="any", annotations="records.json")}),
    optim=AdamW(lr=1e-3), schedule=Constant(),
)  # fmt: skip


def demand(context: DataContext, source: str = "auto", store: str = "fp16", **changes: Any) -> Demand:
    network = Means(**changes)
    return Demand(
        extractors=(network,), absent={}, shapes={"sam": (3, 2, 2)}, source=source, store=store,
        home=context.cache / "features", family="test", setting="model.features", what="encoder",
    )  # fmt: skip


def pictures(context: DataContext) -> list[Path]:
    return sorted(context.root.glob("*.png"))


def write(context: DataContext, folder: Path | None = None, **changes: Any) -> Path:
    choice = choose(demand(context, "live", **changes), STAGE, context)
    shown = SimpleNamespace(features=True, pictures=lambda: iter(pictures(context)))
    unseen = SimpleNamespace(features=None)  # a source whose pictures the network does not see
    job = cache_job(choice, STAGE, context, lambda: {"records": shown, "text": unseen})  # type: ignore[dict-item]
    fill(job, folder or job.folder, workers=0)
    return folder or job.folder


def answer(features: LiveFeatures | CachedFeatures, choice: Any, path: Path) -> torch.Tensor:
    found = features.of(read_image(path), path)
    return found.features["sam"] if found.features else choice.load()({"sam": found.images["sam"][None]})["sam"][0]


@pytest.mark.parametrize("store", ["fp16", "fp32"])
def test_cached_and_live_answers_are_the_same_bits(context, store):
    live = choose(demand(context, store=store), STAGE, context)
    assert live.notes("features") == ("features of sam: live encoders: no complete cache fits",)
    folder = write(context, store=store)
    cached = choose(demand(context, store=store), STAGE, context)
    assert cached.notes("features") == (f"features of sam: cached in {folder}, 5 images, {store}",)
    for path in pictures(context):
        one, other = (answer(choice.features(context.root), choice, path) for choice in (live, cached))
        assert torch.equal(one, other)


def test_what_is_asked_for_by_name_is_there_or_refused(context, tmp_path):
    assert choose(demand(context, "live"), STAGE, context).cache is None
    for source in ("cache", "elsewhere"):
        with pytest.raises(MissingDataError, match="no complete cache of these encoders"):
            choose(demand(context, source), STAGE, context)
    write(context, tmp_path / "big disk")
    assert choose(demand(context), STAGE, context).cache is None, "auto looks in its own place only"
    chosen = choose(demand(context, str(tmp_path / "big disk")), STAGE, context)
    assert chosen.cache.folder == tmp_path / "big disk"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"version": 2}, "sam.version: 1 instead of 2"), ({"store": "fp32"}, "store: fp16 instead of fp32")],
)
def test_a_cache_of_another_network_or_precision_does_not_fit(context, changes, said):
    write(context)
    choice = choose(demand(context, **changes), STAGE, context)
    assert choice.cache is None
    assert said in choice.why


def test_a_cache_serves_only_the_data_it_is_complete_for_and_the_pictures_it_has_seen(context):
    write(context)
    features = choose(demand(context), STAGE, context).features(context.root)
    Image.new("RGB", (9, 9)).save(pictures(context)[0])
    with pytest.raises(DataError, match="changed"):
        features.of(read_image(pictures(context)[0]), pictures(context)[0])
    (context.root / "records.json").write_text("[1, 2]")
    assert "not complete for records" in choose(demand(context), STAGE, context).why


def test_networks_that_are_not_here_are_named_and_a_cache_does_without_them(context):
    write(context)
    absent = replace(demand(context), absent={"sam": "x.pth"})
    assert choose(absent, STAGE, context).cache is not None
    with pytest.raises(MissingDataError, match="weights of the encoder of sam are not there"):
        absent.fetched("fetch it")
    assert demand(context).fetched("fetch it") is False
