"""Swin: the same maps as torchvision's, moved windows that stay apart, and weights from its own files."""

import pytest
import torch
import torch.nn.functional as F
from mmcore_glee.config import TINY
from mmcore_glee.model import Glee
from mmcore_glee.swin import APART, Swin, border_mask, from_windows, to_windows
from mmcore_glee.weights import OWN
from safetensors.torch import save_file
from torchvision.models.swin_transformer import SwinTransformer

SMALL = {"swin_width": 24, "swin_depths": (2, 2, 2, 2), "swin_heads": (2, 2, 4, 4), "swin_window": 4}
CONFIG = TINY.replace(backbone="swin", swin_drop_path=0.0, **SMALL)


def theirs(name: str) -> str:
    """torchvision's name of one of ours."""
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return f"features.0.{ {'proj': 0, 'norm': 2}[parts[1]] }.{parts[2]}"
    stage = int(parts[1])
    if parts[2] == "downsample":
        return ".".join([f"features.{2 * stage + 2}", *parts[3:]])
    rest = ".".join(parts[4:]).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
    return f"features.{2 * stage + 1}.{parts[3]}.{rest}"


def test_maps_are_those_of_torchvision_also_where_windows_do_not_fit() -> None:
    torch.manual_seed(0)
    ours = Swin(CONFIG).eval()
    sizes = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [2, 2, 4, 4], "window_size": [4, 4]}
    other = SwinTransformer(patch_size=[4, 4], stochastic_depth_prob=0.0, **sizes).eval()
    state = {theirs(name): value for name, value in ours.state_dict().items() if not name.startswith("norm")}
    for name, value in other.state_dict().items():
        state.setdefault(name, value)  # their classifier, and the index of positions
    other.load_state_dict({name: value.view_as(other.state_dict()[name]) for name, value in state.items()})
    # 50x42, 25x21, 13x11 and 7x6 tokens: no map is a multiple of the window, none is smaller than one.
    images = torch.randn(2, 3, 200, 168)
    with torch.no_grad():
        maps, x = ours(images), images
        for number, layer in enumerate(other.features):
            x = layer(x)
            if number % 2:
                expected = F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)
                torch.testing.assert_close(maps[number // 2], expected, rtol=0, atol=5e-6)


def test_windows_are_put_back_where_they_came_from() -> None:
    x = torch.arange(2 * 8 * 12 * 3.0).view(2, 8, 12, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(windows[1, 4].view(4, 4, 3), x[1, 4:8, 4:8])
    assert torch.equal(from_windows(windows, 4, 8), x)


def test_only_windows_at_the_border_keep_tokens_apart() -> None:
    mask = border_mask(7, 11, 4, torch.device("cpu"))  # two by three windows after padding
    assert mask.shape == (6, 16, 16)
    apart = (mask == APART).any(-1).any(-1)
    assert apart.tolist() == [False, False, True, True, True, True]
    assert torch.equal(mask, mask.transpose(1, 2))


def test_paths_are_dropped_in_training_only() -> None:
    model = Swin(CONFIG.replace(swin_drop_path=0.9))
    drops = [block.drop_path for stage in model.layers for block in stage.blocks]
    assert drops == pytest.approx([0.9 * i / 7 for i in range(8)])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(images)[3], model(images)[3])
        model.eval()
        assert torch.equal(model(images)[3], model(images)[3])


def test_swins_own_file_fills_the_backbone_and_nothing_else(tmp_path) -> None:
    source, model = Swin(CONFIG), Glee(CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {name: value for name, value in source.state_dict().items() if not name.startswith("norm")}
    unused = {"norm.weight": torch.ones(192), "head.bias": torch.zeros(7)}
    unused["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    unused["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    save_file(names | unused, tmp_path / "swin.safetensors")
    report = model.initialise(tmp_path / "swin.safetensors")
    assert set(report.filled) == {f"backbone.{name}" for name in names}
    for name, value in model.state_dict().items():
        part = name.removeprefix("backbone.")
        assert torch.equal(value, names[part] if name in report.filled else before[name]), name


def test_a_mask_dino_of_resnet_leaves_swin_alone(tmp_path) -> None:
    resnet, model = Glee(TINY), Glee(CONFIG)
    published = resnet.published().to_published(resnet.state_dict())
    kept = {
        name: value.clone()
        for name, value in published.items()
        if not name.removeprefix("glee.").startswith(("lang_projection", *OWN))
    }
    save_file(kept, tmp_path / "maskdino.safetensors")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    report = model.initialise(tmp_path / "maskdino.safetensors")
    assert any(name.startswith("pixel_decoder.layers") for name in report.filled)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_published_files_hold_the_index_of_positions_and_read_without_it() -> None:
    model = Glee(CONFIG)
    published = model.published().to_published(model.state_dict())
    indexes = [name for name in published if name.endswith("relative_position_index")]
    assert len(indexes) == sum(CONFIG.swin_depths)
    for without in (False, True):
        given = {name: value for name, value in published.items() if not (without and name in indexes)}
        state, report = model.published().to_ours(given, model.state_dict())
        assert not report.new
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
