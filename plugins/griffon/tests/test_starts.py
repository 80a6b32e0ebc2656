"""Where a run starts: a language model, and CLIP files for two towers, told apart and enlarged while they are read."""

from pathlib import Path

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.runs.initialise import initialise
from mmcore.vision.clip_vit import ClipTower, ClipVit, clip_rules, resize_positions
from mmcore.weights.files import write_safetensors
from mmcore.weights.maps import WeightMap
from mmcore_griffon.config import TINY
from mmcore_griffon.model import Griffon
from mmcore_griffon.stages import stages


def clip_file(tower: ClipTower, folder: Path) -> dict[str, torch.Tensor]:
    """A CLIP tower under its published names."""
    names = WeightMap(rules=tuple(clip_rules("vision_model.", "")))
    state = names.to_published(ClipVit(tower).state_dict())
    write_safetensors(state, folder)
    return state


def test_a_tower_of_another_resolution_is_enlarged_and_the_rest_stays(tmp_path: Path) -> None:
    model = Griffon(TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert isinstance(TINY.tower, ClipTower)
    small = ClipTower(hidden_size=96, intermediate_size=192, num_layers=3, num_heads=4, image_size=70, patch_size=14)
    written = clip_file(small, tmp_path)
    model.initialise(tmp_path)
    now = model.state_dict()
    wanted = resize_positions(written["vision_model.embeddings.position_embedding.weight"], TINY.tower.grid)
    assert torch.equal(now["tower.position_embedding.weight"], wanted)
    assert all(torch.equal(now[name], before[name]) for name in now if not name.startswith("tower."))


def test_a_whole_file_without_its_tower_needs_one_beside_it(tmp_path: Path) -> None:
    whole, tower = tmp_path / "whole", tmp_path / "tower"
    config = TINY.replace(region_tower=None)  # as Griffon v1, whose tower was frozen
    assert isinstance(config.tower, ClipTower)
    trained = Griffon(config)
    published = trained.published().to_published(trained.state_dict())
    lacking = {name: tensor for name, tensor in published.items() if "vision_tower" not in name}
    write_safetensors(lacking, whole)
    clip_file(config.tower, tower)
    with pytest.raises(WeightsError, match="tower"):
        initialise(Griffon(config), stages("tiny")[0], [str(whole)], tmp_path)
    model = Griffon(config)
    initialise(model, stages("tiny")[0], [str(tower), str(whole)], tmp_path)
    now, before = model.state_dict(), trained.state_dict()
    assert all(torch.equal(now[n], before[n]) for n in now if not n.startswith("tower."))
    partly = {name: tensor for name, tensor in published.items() if not name.endswith("class_embedding")}
    with pytest.raises(WeightsError, match="lacks 1 tensor"):
        trained.published_parts(partly).to_ours(partly, before)


def test_a_file_with_the_positions_of_the_region_tokenizer_is_its_encoder(tmp_path: Path) -> None:
    model = Griffon(TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert TINY.region_tower is not None
    written = clip_file(TINY.region_tower, tmp_path)
    model.initialise(tmp_path)
    now = model.state_dict()
    name = "embeddings.patch_embedding.weight"
    assert torch.equal(now["region.encoder.patch_embedding.weight"], written[f"vision_model.{name}"])
    assert all(torch.equal(now[n], before[n]) for n in now if not n.startswith("region.encoder."))
