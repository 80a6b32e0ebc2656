"""Vision towers against the libraries they come from."""

import pytest
import torch
from mmcore.errors import RecipeError
from mmcore_visper.config import ClipTower, ConvNextTower
from mmcore_visper.towers import build_projector, build_tower
from mmcore_visper.weights import part

SMALL = ClipTower(hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, image_size=56)
CONVNEXT = ConvNextTower(depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), image_size=64)


@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_the_vit_gives_the_hidden_states_of_transformers(layer):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    theirs = CLIPVisionModel(config).eval()
    ours = build_tower(ClipTower(**{**_fields(SMALL), "select_layer": layer})).eval()
    # transformers 5 writes CLIP's names with the level that its modules no longer have.
    file = {f"vision_model.{name.removeprefix('vision_model.')}": t for name, t in theirs.state_dict().items()}
    own = {f"tower.{name}": tensor for name, tensor in ours.state_dict().items()}
    state, report = part("clip", own).to_ours(file, own)
    assert not report.new
    ours.load_state_dict({name.removeprefix("tower."): tensor for name, tensor in state.items()})
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).hidden_states[layer][:, 1:]
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, CONVNEXT], ids=["vit", "convnext"])
def test_a_batch_without_images_passes_through_and_the_projector_fits(config):
    tower = build_tower(config).eval()
    projector = build_projector(config, 20)
    side = config.image_size
    for count in (0, 2):
        rows = projector(tower(torch.randn(count, 3, side, side)))
        assert rows.shape == (count, config.grid**2, 20)


def test_stochastic_depth_is_off_unless_asked_for():
    quiet, noisy = build_tower(CONVNEXT), build_tower(ConvNextTower(**{**_fields(CONVNEXT), "drop_path": 0.9}))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(quiet.train()(images), quiet(images))
    for block in noisy.modules():
        if hasattr(block, "gamma"):
            torch.nn.init.ones_(block.gamma)
    torch.manual_seed(0)
    assert not torch.equal(noisy.train()(images), noisy(images))


def test_a_tower_that_cannot_be_built_is_refused():
    with pytest.raises(RecipeError, match="heads"):
        ClipTower(hidden_size=30, num_heads=4)
    with pytest.raises(RecipeError, match="hidden state"):
        ClipTower(num_layers=3, select_layer=-5)
    with pytest.raises(RecipeError, match="activation"):
        ClipTower(act="relu6")


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
