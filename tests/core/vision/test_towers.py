"""Vision towers against the libraries they come from and the published numbers of the families that read them."""

import dataclasses
import json

import pytest
import torch
from mmcore.errors import RecipeError, WeightsError
from mmcore.parity import deterministic_array, deterministic_image
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.clip_vit import ClipTower, clip_rules, resize_positions
from mmcore.vision.convnext import ConvNextTower
from mmcore.vision.projectors import build_projector, projected_tokens
from mmcore.vision.towers import build_tower
from mmcore.weights.maps import WeightMap
from safetensors.torch import load_file

SMALL = ClipTower(hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, image_size=56)
CONVNEXT = ConvNextTower(depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), image_size=64)


def filled(tower, file, prefix="vision_model."):
    """The tower in evaluation mode with the tensors of CLIP's names, all of which it uses."""
    own = tower.state_dict()
    state, report = WeightMap(tuple(clip_rules(prefix, ""))).to_ours(file, own)
    assert not report.new
    tower.load_state_dict(state)
    return tower.eval()


def deterministic(tower, prefix):
    """The tower with the golden weights of its published names."""
    names = WeightMap(tuple(clip_rules(prefix, ""))).to_published(tower.state_dict())
    return filled(
        tower, {n: torch.from_numpy(deterministic_array(n, tuple(t.shape))) for n, t in names.items()}, prefix
    )


def test_the_vit_gives_the_hidden_states_of_transformers():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    theirs = CLIPVisionModel(config).eval()
    # transformers 5 writes CLIP's names with the level that its modules no longer have.
    file = {f"vision_model.{name.removeprefix('vision_model.')}": t for name, t in theirs.state_dict().items()}
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).hidden_states
        several = filled(build_tower(SMALL), file).hidden_states(images, range(-4, 4))
        for layer, state in several.items():
            torch.testing.assert_close(state, expected[layer], rtol=1e-5, atol=1e-5)
        for layer in (-2, -1, 1):
            for feature, rows in {"patch": slice(1, None), "cls_patch": slice(None), "cls": slice(1)}.items():
                read = dataclasses.replace(SMALL, select_layer=layer, select_feature=feature)
                found = filled(build_tower(read), file)(images)
                assert found.shape[1] == read.num_tokens
                torch.testing.assert_close(found, expected[layer][:, rows], rtol=1e-5, atol=1e-5)


def test_layers_behind_the_last_that_is_read_are_not_run():
    tower = build_tower(dataclasses.replace(SMALL, select_layer=1)).eval()
    images = torch.randn(1, 3, 56, 56)
    before = tower(images)
    for name in tower.unread():
        for parameter in tower.get_submodule(name).parameters():
            torch.nn.init.constant_(parameter, torch.nan)
    assert torch.equal(tower(images), before)
    assert tower.unread() == ("post_norm", "layers.1", "layers.2")
    assert tower.unread(2) == ("post_norm", "layers.2")


@pytest.mark.parametrize("config", [SMALL, CONVNEXT], ids=["vit", "convnext"])
def test_a_batch_without_images_passes_through_and_the_projector_fits(config):
    tower = build_tower(config).eval()
    projector = build_projector("mlp2x_gelu", config.channels, 20)
    side = config.image_size
    for count in (0, 2):
        rows = projector(tower(torch.randn(count, 3, side, side)))
        assert rows.shape == (count, config.num_tokens, 20)


def test_stochastic_depth_is_off_unless_asked_for():
    quiet, noisy = build_tower(CONVNEXT), build_tower(dataclasses.replace(CONVNEXT, drop_path=0.9))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(quiet.train()(images), quiet(images))
    for block in noisy.modules():
        if hasattr(block, "gamma"):
            torch.nn.init.ones_(block.gamma)
    torch.manual_seed(0)
    assert not torch.equal(noisy.train()(images), noisy(images))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "heads"),
        ({"num_layers": 3, "select_layer": -5}, "hidden state"),
        ({"act": "relu6"}, "activation"),
        ({"select_feature": "mean"}, "select_feature"),
    ],
)
def test_a_tower_that_cannot_be_built_is_refused(wrong, said):
    with pytest.raises(RecipeError, match=said):
        ClipTower(**wrong)


def test_positions_that_are_no_square_are_refused_and_their_own_size_stays_untouched():
    positions = torch.randn(17, 6)
    assert resize_positions(positions, 4) is positions
    with pytest.raises(WeightsError, match="18 positions"):
        resize_positions(torch.randn(18, 6), 4)


def test_a_file_of_another_resolution_is_read_where_that_is_asked_for():
    stored, larger = build_tower(SMALL), build_tower(dataclasses.replace(SMALL, image_size=84))
    file = WeightMap(tuple(clip_rules("", ""))).to_published(stored.state_dict())
    with pytest.raises(WeightsError, match="another shape"):
        WeightMap(tuple(clip_rules("", ""))).to_ours(file, larger.state_dict())
    state, _ = WeightMap(tuple(clip_rules("", "", grid=6))).to_ours(file, larger.state_dict())
    larger.load_state_dict(state)
    assert torch.equal(larger.position_embedding.weight[0], stored.position_embedding.weight[0])


def test_positions_of_another_resolution_are_those_of_the_published_script(shared):
    case = shared / "goldens/griffon/pos_embed_resize"
    tensors = load_file(case / "tensors.safetensors")
    for entry in json.loads((case / "case.json").read_text())["cases"]:
        number = entry["index"]
        found = resize_positions(tensors[f"in{number}"], entry["new_grid"])
        assert list(found.shape[:1]) == entry["position_ids_shape"][1:]
        if f"out{number}" in tensors:
            torch.testing.assert_close(found, tensors[f"out{number}"], atol=1e-5, rtol=0)
        else:
            torch.testing.assert_close(found[::37], tensors[f"out{number}_every_37th_row"], atol=1e-5, rtol=0)
            torch.testing.assert_close(found.sum(1), tensors[f"out{number}_row_sums"], atol=1e-4, rtol=0)


def test_a_tower_read_at_another_layer_and_feature_gives_the_published_rows(shared):
    """Griffon: patches, class token and patches, a reducing projector, and one class token of a region's crop."""
    case = shared / "goldens/griffon/vision_tower"
    told, stored = json.loads((case / "case.json").read_text()), load_file(case / "tensors.safetensors")
    for feature in ("patch", "cls_patch"):
        tower = deterministic(build_tower(_griffon(told["vision_config"], -2, feature)), GRIFFON)
        found = tower(stored["images"])
        torch.testing.assert_close(found, stored[f"tower_{feature}"], atol=1e-4, rtol=1e-4)
        if feature == "patch":
            projector = build_projector("conv_reduce", 32, 48)
            _fill(projector, "model.mm_projector.")
            torch.testing.assert_close(projector(found), stored["encode_images"], atol=1e-4, rtol=1e-4)
    last = tower.hidden_states(stored["images"], [-1])[-1]
    torch.testing.assert_close(last, stored["last_hidden"], atol=1e-4, rtol=1e-4)
    crops = build_tower(_griffon(told["prompt_vision_config"], -1, "cls"))
    rows = deterministic(crops, "model.prompt_visual_encoder.vision_model.")(stored["regions"])
    mlp = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.ReLU(), torch.nn.Linear(48, 48))
    _fill(mlp, "model.prompt_projector.")
    torch.testing.assert_close(mlp(rows), stored["region_tokens"], atol=1e-4, rtol=1e-4)


def test_several_hidden_states_of_one_pass_are_the_published_levels(shared):
    """GLaMM: the features that are projected, and four levels for its region encoder."""
    case = shared / "goldens/glamm/component_main_clip_levels"
    told, stored = json.loads((case / "case.json").read_text()), load_file(case / "tensors.safetensors")
    sizes = told["config"]
    tower = deterministic(
        build_tower(
            ClipTower(
                hidden_size=sizes["clip_hidden"],
                intermediate_size=sizes["clip_inter"],
                num_layers=sizes["clip_layers"],
                num_heads=sizes["clip_heads"],
            )
        ),
        "model.vision_tower.vision_tower.vision_model.",
    )
    size = sizes["clip_image"]
    images = torch.stack([ClipImages(size)(deterministic_image(seed, size, size)) for seed in (101, 102)])
    levels = told["hidden_state_index_of_levels"]
    states = tower.hidden_states(images, [*levels, told["select_index"]])
    limits = {"rtol": told["tolerances"]["rtol"], "atol": told["tolerances"]["atol"]}
    torch.testing.assert_close(states[told["select_index"]][:, ::9, ::4], stored["out.select"], **limits)
    for number, level in enumerate(levels):
        torch.testing.assert_close(states[level][:, 1:][:, ::19, ::4], stored[f"out.level.{number}"], **limits)
    projector = build_projector("mlp2x_gelu", sizes["clip_hidden"], sizes["hidden"])
    _fill(projector, "model.mm_projector.")
    torch.testing.assert_close(
        projector(tower.select(states[told["select_index"]]))[:, ::7], stored["out.projected"], **limits
    )


@pytest.mark.parametrize("kind", ["linear", "mlp3x_gelu", "conv_reduce", "conv_reduce_wo_pad", "resampler", "identity"])
def test_every_projector_takes_no_pictures_and_says_how_many_rows_it_gives(kind):
    projector = build_projector(kind, 128, 128)
    for count in (0, 2):
        assert projector(torch.randn(count, 49, 128)).shape == (count, projected_tokens(kind, 7), 128)


def test_projectors_give_the_published_rows(shared):
    case = shared / "goldens/griffon/projectors"
    told, stored = json.loads((case / "case.json").read_text()), load_file(case / "tensors.safetensors")
    for entry in told["cases"]:
        kind, grid = entry["projector"], entry["grid"]
        projector = build_projector(kind, entry["in_channels"], entry["out_channels"])
        own = {name: list(tensor.shape) for name, tensor in projector.state_dict().items()}
        assert own == entry["keys"]
        assert projected_tokens(kind, grid) == entry["out_shape"][1]
        _fill(projector, "mm_projector.", keep="pos_embed")
        found = projector.eval()(stored[f"in_{kind}_{grid}"])
        every = 48 if kind == "resampler" else 1
        torch.testing.assert_close(found[:, ::every], stored[f"out_{kind}_{grid}"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "width"), [("conv_reduced", 20), ("mlp0x_gelu", 20), ("resampler", 100), ("identity", 7)]
)
def test_a_projector_that_does_not_exist_or_fit_is_refused(kind, width):
    with pytest.raises(RecipeError):
        build_projector(kind, 20, width)


GRIFFON = "model.vision_tower.vision_tower.vision_model."


def _griffon(sizes, layer, feature):
    return ClipTower(
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inter"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        image_size=sizes["size"],
        patch_size=sizes["patch"],
        select_layer=layer,
        select_feature=feature,
    )


def _fill(module, prefix, keep=""):
    own = module.state_dict()
    values = {n: torch.from_numpy(deterministic_array(prefix + n, tuple(t.shape))) for n, t in own.items() if n != keep}
    module.load_state_dict(own | values)
