"""Where a run starts: a language model, and CLIP files for two towers, told apart and enlarged while they are read."""

from pathlib import Path

import torch
from mmcore.vision.clip_vit import ClipTower, ClipVit, clip_rules, resize_positions
from mmcore.weights.files import write_safetensors
from mmcore.weights.maps import WeightMap
from mmcore_griffon.config import TINY
from mmcore_griffon.model import Griffon


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
