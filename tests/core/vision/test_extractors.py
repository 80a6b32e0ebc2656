"""Frozen networks beside the model: what they say follows from the picture alone, and only who is asked is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, ShapeError, WeightsError
from mmcore.vision.extractors import PASS, Extractors, PublishedExtractor
from mmcore.vision.frozen import find_weights, is_frozen, load_published, weight_files
from mmcore.vision.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels, as_tensor, resize
from PIL import Image
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters(PublishedExtractor):
    """Some filters over an 8 x 8 picture, averaged; as GLaMM's or a teacher's network, in small."""

    name: str = "filters"
    channels: int = 5
    precision: str = "fp32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels,)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**asdict(self), "weights": None}

    def inputs(self, rgb: np.ndarray) -> torch.Tensor:
        return as_tensor(resize(rgb, (8, 8), Image.Resampling.BILINEAR))

    def build(self, published: Mapping[str, torch.Tensor], label: str) -> nn.Module:
        network = nn.Sequential(Pixels(IMAGENET_MEAN, IMAGENET_STD), nn.Conv2d(3, self.channels, 3), nn.AvgPool2d(6))
        network.load_state_dict({f"1.{name}": tensor for name, tensor in published.items()})
        return nn.Sequential(network, nn.Flatten()).requires_grad_(False)


@pytest.fixture
def described(tmp_path: Path) -> Filters:
    torch.manual_seed(0)
    save_file(nn.Conv2d(3, 5, 3).state_dict(), tmp_path / "filters.safetensors")
    return Filters(weights=tmp_path / "filters.safetensors")


def pixels(described: Filters, count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.stack([described.inputs(rng.integers(0, 256, (9, 13, 3), np.uint8)) for _ in range(count)])


def test_answers_do_not_depend_on_the_batch_or_on_autocast(described):
    assert PASS > 1, "otherwise networks run one picture at a time"
    given = pixels(described, PASS + 2)
    whole = Extractors([described], store="fp32")({"filters": given})["filters"]
    assert whole.shape == (PASS + 2, 5)
    for begin, end in ((0, 1), (1, 3), (2, PASS + 2)):
        with torch.autocast("cpu", torch.bfloat16):
            part = Extractors([described], store="fp32")({"filters": given[begin:end]})["filters"]
        assert torch.equal(part, whole[begin:end])


def test_live_answers_are_rounded_as_cached_ones_are(described):
    given = {"filters": pixels(described, 1)}
    exact, rounded = (Extractors([described], store=store)(given)["filters"] for store in ("fp32", "fp16"))
    assert torch.equal(exact.half().float(), rounded)
    assert not torch.equal(exact, rounded)


def test_no_pictures_give_no_answers(described):
    assert Extractors([described]).stored("filters", pixels(described, 1)[:0]).shape == (0, 5)


def test_networks_cost_nothing_before_they_are_asked(described, tmp_path):
    asked = Extractors([Filters(weights=tmp_path / "nowhere")])
    assert asked.networks == {}
    with pytest.raises(MissingDataError, match="weights of the filters feature extractor are not there"):
        asked.load()
    with pytest.raises(ShapeError, match="no frozen network gives 'depth'"):
        asked({"depth": pixels(described, 1)})
    assert described.files == (described.weights,)
    assert weight_files(described.weights.parent) == (described.weights,)


def test_a_network_is_looked_for_below_the_data_root_and_in_its_folder_of_weights(tmp_path):
    assert find_weights("weights/vit.pth", tmp_path) is None
    (tmp_path / "weights" / "pipeline").mkdir(parents=True)
    (tmp_path / "weights" / "vit.pth").write_bytes(b"")
    assert find_weights("weights/vit.pth", tmp_path) == tmp_path / "weights" / "vit.pth"
    assert find_weights("hf://owner/name/vit.pth", tmp_path) == tmp_path / "weights" / "vit.pth"
    (tmp_path / "weights" / "vit.pth").unlink()
    (tmp_path / "weights" / "pipeline" / "vit.pth").write_bytes(b"")
    assert find_weights("hf://owner/name/vit.pth", tmp_path, ["pipeline/vit.pth"]) is not None


def test_a_module_of_transformers_is_filled_from_published_names_whole_or_not_at_all():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    source = CLIPVisionModelWithProjection(config)
    tensors = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in source.state_dict().items()}
    tensors["visual_projection.weight"] = tensors.pop("vision_model.visual_projection.weight")
    filled = load_published(CLIPVisionModelWithProjection, config, tensors, "here")
    assert is_frozen(filled)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in filled.state_dict().items())
    del tensors["visual_projection.weight"]
    with pytest.raises(WeightsError, match="1 missing tensors: visual_projection"):
        load_published(CLIPVisionModelWithProjection, config, tensors, "here")
