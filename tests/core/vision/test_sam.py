"""SAM's parts: the same sums as transformers', any number of pictures and masks, published names both ways."""

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, RecipeError
from mmcore.vision.sam.config import SamConfig
from mmcore.vision.sam.decoder import unread
from mmcore.vision.sam.encoder import SamEncoder, from_windows, to_windows
from mmcore.vision.sam.maps import SamMaps
from mmcore.vision.sam.model import Sam, fixed_encoder
from mmcore.vision.sam.names import STARTS, sam_rules
from mmcore.vision.sam.pixels import MEAN, STD, normalised, padded
from mmcore.weights.maps import WeightMap
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

TINY = SamConfig(
    image_size=80,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    mlp_ratio=2.0,
    window_size=3,
    global_layers=(1,),
    out_channels=16,
    decoder_mlp=32,
    decoder_heads=2,
    mask_prompt_channels=8,
    iou_hidden=16,
)


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    model = Sam(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_the_encoder_gives_what_transformers_gives(sam):
    sizes = SamVisionConfig(
        hidden_size=TINY.hidden_size,
        output_channels=TINY.out_channels,
        num_hidden_layers=TINY.num_layers,
        num_attention_heads=TINY.num_heads,
        image_size=TINY.image_size,
        patch_size=TINY.patch_size,
        window_size=TINY.window_size,
        global_attn_indexes=list(TINY.global_layers),
        mlp_dim=int(TINY.hidden_size * TINY.mlp_ratio),
    )
    theirs = SamVisionEncoder(sizes).eval()
    renamed = {
        "patch_embed.": "patch_embed.projection.",
        "neck.0.": "neck.conv1.",
        "neck.1.": "neck.layer_norm1.",
        "neck.2.": "neck.conv2.",
        "neck.3.": "neck.layer_norm2.",
        "norm": "layer_norm",
        ".lin": ".mlp.lin",
    }
    state = {}
    for name, tensor in sam.image_encoder.state_dict().items():
        for ours, other in renamed.items():
            name = name.replace(ours, other) if "layer_norm" not in name else name
        state[name] = tensor
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
        torch.testing.assert_close(sam.image_encoder(images), expected, rtol=1e-5, atol=3e-7)


def test_rows_at_once_do_not_change_the_map(sam, monkeypatch):
    images = torch.randn(1, 3, TINY.image_size, TINY.image_size)
    with torch.no_grad():
        whole = sam.image_encoder(images)
        monkeypatch.setattr("mmcore.vision.sam.encoder.PAIRS_ON_CPU", 1)
        torch.testing.assert_close(sam.image_encoder(images), whole)


@pytest.mark.parametrize("size", [(5, 5), (6, 3), (7, 8)])
def test_windows_and_back(size):
    hidden = torch.randn(2, *size, 4)
    windows = to_windows(hidden, 3)
    assert windows.shape[1:3] == (3, 3)
    assert torch.equal(from_windows(windows, 3, size), hidden)


def test_no_picture_and_no_mask_go_through(sam):
    nothing = torch.zeros(0, 3, TINY.image_size, TINY.image_size)
    maps = sam.image_encoder(nothing)
    assert maps.shape == (0, *TINY.feature_shape)
    low = sam.mask_decoder(maps, torch.zeros(0, 16), torch.zeros(0, dtype=torch.long), *sam.prompt_encoder())
    assert low.shape == (0, 4 * TINY.grid, 4 * TINY.grid)


def test_each_prompt_draws_the_mask_of_its_own_picture(sam):
    maps, prompts, of = torch.randn(2, *TINY.feature_shape), torch.randn(3, 16), torch.tensor([1, 0, 1])
    with torch.no_grad():
        places = sam.prompt_encoder()
        together = sam.mask_decoder(maps, prompts, of, *places)
        for number, picture in enumerate(of.tolist()):
            alone = sam.mask_decoder(
                maps[picture][None], prompts[number][None], torch.zeros(1, dtype=torch.long), *places
            )
            torch.testing.assert_close(together[number], alone[0], rtol=1e-5, atol=3e-7)


def test_what_is_called_unread_has_no_gradient(sam):
    low = sam.mask_decoder(
        torch.randn(1, *TINY.feature_shape), torch.randn(1, 16), torch.zeros(1, dtype=torch.long), *sam.prompt_encoder()
    )
    named = dict(sam.mask_decoder.named_parameters())
    found = torch.autograd.grad(low.sum(), list(named.values()), allow_unused=True)
    idle = {name for name, gradient in zip(named, found, strict=True) if gradient is None}
    assert idle == {name for name in named if name.startswith(unread(TINY))}


def test_published_names_hold_every_weight_once(sam):
    names = WeightMap(rules=tuple(sam_rules(ours="", iou_depth=TINY.iou_depth)))
    state = sam.state_dict()
    published = names.to_published(state)
    assert all(name.startswith(STARTS) for name in published)
    assert "image_encoder.blocks.0.attn.qkv.weight" in published
    back, _ = names.to_ours(published, state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_picture_lies_in_the_corner_and_only_it_is_normalised():
    rgb = np.full((20, 40, 3), 200, np.uint8)
    square = padded(rgb, 80)
    assert square.shape == (4, 80, 80)
    assert square[3].sum() == 40 * 80
    numbers = normalised(square[None])[0]
    expected = (200 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(numbers[:, 10, 10], expected)
    assert not numbers[:, 40:].any()


def test_a_fixed_encoder_is_the_same_whenever_it_is_made():
    torch.manual_seed(1)
    one = fixed_encoder(TINY).state_dict()
    torch.manual_seed(2)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    other = fixed_encoder(TINY).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("prefix", ["", "model.grounding_encoder."])
def test_maps_are_those_of_the_encoder_in_a_file_of_sam_or_of_a_model_around_it(sam, prefix):
    rules = tuple(sam_rules(prefix, "", iou_depth=TINY.iou_depth))
    published = WeightMap(rules=rules).to_published(sam.state_dict())
    extractor = SamMaps(sizes=TINY, precision="fp32")
    pixels = extractor.inputs(np.full((30, 50, 3), 90, np.uint8))[None]
    with torch.no_grad():
        found = extractor.build(published, "a file")(pixels)
        torch.testing.assert_close(found, sam.image_encoder(normalised(pixels)))
    assert found.shape[1:] == extractor.shape
    with pytest.raises(MissingDataError, match="weights of the segment encoder"):
        extractor.load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 81}, "no whole number of patches"),
        ({"num_heads": 3}, "do not divide"),
        ({"global_layers": (2,)}, "there is no layer 2 of 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    from dataclasses import replace

    with pytest.raises(RecipeError, match=message):
        replace(TINY, **changes)


def test_the_encoder_of_a_config_has_its_layers():
    assert [layer.window for layer in SamEncoder(TINY).layers] == [3, 0]
