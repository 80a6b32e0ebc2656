"""Teachers: preparation, targets that depend on the picture alone, published files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, ShapeError, WeightsError
from mmcore.parity import deterministic_image, main
from mmcore.vision.extractors import Extractors
from mmcore_visper.dpt import DepthDecoder, as_picture
from mmcore_visper.parity.teachers import KINDS
from mmcore_visper.teachers import DepthTeacher, GenTeacher, RandomTeacher, SegTeacher
from mmcore_visper.teachers.depth import resample_positions
from PIL import Image
from safetensors.torch import save_file
from torch import nn

SHAPES = {"depth": (64, 32), "seg": (48, 8, 8), "gen": (1, 32)}


def random_teachers(**options) -> Extractors:
    return Extractors([RandomTeacher(name=task, shape=shape) for task, shape in SHAPES.items()], **options)


def pictures(count: int) -> list[np.ndarray]:
    return [deterministic_image(seed, 60 + seed, 90 - seed) for seed in range(count)]


def inputs_of(teachers: Extractors, images) -> dict[str, torch.Tensor]:
    return {task: torch.stack([t.inputs(rgb) for rgb in images]) for task, t in teachers.described.items()}


@pytest.mark.parametrize("name", KINDS)
def test_our_numbers_are_those_of_the_published_code(shared, name, capsys):
    assert main("visper", KINDS, ["-q", str(shared / "goldens" / "visper" / name)]) == 0, capsys.readouterr().out


# Published networks, small


def small_depth(**changes) -> DepthTeacher:
    return DepthTeacher(**{"width": 16, "depth": 3, "num_heads": 2, "taps": (0, 1, 2), "precision": "fp32", **changes})


def depth_file(folder: Path) -> Path:
    """A checkpoint as Depth-Anything-V2 publishes it, with its decoder."""
    torch.manual_seed(0)
    linear = {"attn.qkv": (48, 16), "attn.proj": (16, 16), "mlp.fc1": (64, 16), "mlp.fc2": (16, 64)}
    state = {
        "cls_token": torch.randn(1, 1, 16),
        "pos_embed": torch.randn(1, 1 + 37 * 37, 16),
        "mask_token": torch.zeros(1, 16),
        "patch_embed.proj.weight": torch.randn(16, 3, 14, 14) / 24,
        "patch_embed.proj.bias": torch.zeros(16),
        "norm.weight": torch.ones(16),
        "norm.bias": torch.zeros(16),
    }
    for i in range(3):
        for name, shape in linear.items():
            state[f"blocks.{i}.{name}.weight"] = torch.randn(shape) / 4
            state[f"blocks.{i}.{name}.bias"] = torch.randn(shape[0])
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{name}.weight": torch.ones(16), f"blocks.{i}.{name}.bias": torch.zeros(16)}
        state |= {f"blocks.{i}.ls{j}.gamma": torch.ones(16) for j in (1, 2)}
    head = DepthDecoder(16, 8, (4, 4, 4, 4)).state_dict()
    path = folder / "depth_anything_v2_small.pth"
    torch.save({f"pretrained.{name}": tensor for name, tensor in state.items()} | head, path)
    return path


def seg_folder(folder: Path) -> Path:
    """A OneFormer folder as transformers writes it; only the backbone's part is used."""
    from transformers import SwinBackbone, SwinConfig

    torch.manual_seed(1)
    sizes = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 5}
    folder.mkdir()
    SwinBackbone(SwinConfig(**sizes, out_features=["stage4"])).save_pretrained(folder / "backbone")
    from safetensors.torch import load_file

    state = load_file(folder / "backbone" / "model.safetensors")
    bare = {f"model.pixel_level_module.encoder.{name.removeprefix('swin.')}": t for name, t in state.items()}
    for path in (folder / "backbone").iterdir():
        path.unlink()
    (folder / "backbone").rmdir()
    save_file(bare | {"model.transformer_module.queries.weight": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"backbone_config": sizes}))
    size = {"shortest_edge": 192, "longest_edge": 1333}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, "image_mean": [0.5, 0.5, 0.5]}))
    return folder


def gen_folder(folder: Path, seed: int = 2) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        projection_dim=20, hidden_act="gelu",
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("weights")
    return [
        small_depth(weights=depth_file(folder)),
        SegTeacher.of(seg_folder(folder / "oneformer"), side=160, grid=6, precision="fp32"),
        GenTeacher.of(gen_folder(folder / "clip"), precision="fp32"),
    ]


def test_published_files_are_read_with_the_sizes_they_name(published):
    depth, seg, gen = published
    assert (depth.shape, seg.shape, gen.shape) == ((576, 16), (64, 6, 6), (1, 20))
    assert (seg.shortest, seg.mean, seg.std) == (192, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
    teachers = Extractors(published)
    images = pictures(2)
    inputs = inputs_of(teachers, images)
    assert {task: tuple(x.shape) for task, x in inputs.items()} == {
        "depth": (2, 3, 336, 336), "seg": (2, 3, 192, 192), "gen": (2, 3, 56, 56),
    }  # fmt: skip
    assert all(x.dtype == torch.uint8 for x in inputs.values())
    targets = teachers(inputs)
    assert {task: tuple(x.shape[1:]) for task, x in targets.items()} == {t.name: t.shape for t in published}
    assert not any(x.requires_grad for x in targets.values())


def test_targets_do_not_depend_on_the_batch_or_on_autocast(published):
    for teachers in (Extractors(published, store="fp32"), random_teachers(store="fp32")):
        inputs = inputs_of(teachers, pictures(6))
        whole = teachers(inputs)
        for begin, end in ((0, 1), (1, 3), (2, 6)):
            with torch.autocast("cpu", torch.bfloat16):
                part = teachers({task: x[begin:end] for task, x in inputs.items()})
            for task, target in part.items():
                assert torch.equal(target, whole[task][begin:end]), task


def test_probes_learn_the_last_tap_alone(published):
    depth = published[0]
    last = small_depth(weights=depth.weights, last_only=True)
    pixels = torch.stack([depth.inputs(rgb) for rgb in pictures(1)])
    network = depth.load()
    with torch.no_grad():
        taps = network.tapped(pixels)
        torch.testing.assert_close(network(pixels), torch.stack(taps).mean(0))
        torch.testing.assert_close(last.load()(pixels), taps[-1])
    assert depth.facts != last.facts


def test_the_depth_teacher_sees_swapped_channels():
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 200
    assert small_depth().inputs(red)[:, 0, 0].tolist() == [0, 0, 200]


def test_the_gen_teacher_sees_the_middle_as_clip_cuts_it():
    wide = deterministic_image(5, 100, 173)
    cut = GenTeacher().inputs(wide).permute(1, 2, 0).numpy()
    resized = Image.fromarray(wide).resize((int(224 * 173 / 100), 224), Image.Resampling.BICUBIC)
    left = (resized.size[0] - 224) // 2
    np.testing.assert_array_equal(cut, np.asarray(resized)[:, left : left + 224])


def test_positions_of_the_stored_grid_stay_as_they_are():
    positions = torch.randn(1, 1 + 25, 4)
    assert resample_positions(positions, 5) is positions
    moved = resample_positions(positions, 3)
    by_size = nn.functional.interpolate(
        positions[:, 1:].reshape(1, 5, 5, 4).permute(0, 3, 1, 2), size=(3, 3), mode="bicubic"
    )
    assert moved.shape == (1, 10, 4)
    assert not torch.allclose(moved[:, 1:], by_size.permute(0, 2, 3, 1).reshape(1, 9, 4), atol=1e-3)


def test_teachers_cost_nothing_before_they_are_asked(tmp_path):
    teachers = Extractors([GenTeacher(weights=tmp_path / "nowhere")])
    assert teachers.networks == {}
    with pytest.raises(MissingDataError, match="weights of the gen teacher are not there"):
        teachers.load()


def test_weights_of_another_network_are_refused(published, tmp_path):
    with pytest.raises(WeightsError, match="missing tensors"):
        small_depth(weights=published[0].weights, depth=4).load()
    with pytest.raises(WeightsError, match=r"no published name for blocks\.2"):
        small_depth(weights=published[0].weights, depth=2).load()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="not the configuration of OneFormer"):
        SegTeacher.of(tmp_path)
    with pytest.raises(WeightsError, match="not the configuration of a CLIP"):
        GenTeacher.of(tmp_path)


# Random features


def test_random_targets_are_the_same_everywhere_and_of_unit_variance():
    teachers = random_teachers(store="fp32")
    inputs = inputs_of(teachers, pictures(8))
    targets = teachers(inputs)
    again = random_teachers(store="fp32")(inputs)
    for task, target in targets.items():
        assert torch.equal(target, again[task])
        axis = 1 if target.ndim == 4 else 2
        torch.testing.assert_close(target.var(axis, correction=0).mean(), torch.tensor(1.0), atol=0.01, rtol=0)
        torch.testing.assert_close(target.mean(axis).abs().max(), torch.tensor(0.0), atol=1e-4, rtol=0)


def test_random_targets_follow_what_is_in_the_picture_and_where():
    teacher = RandomTeacher(name="depth", shape=(64, 32))
    left = np.full((64, 64, 3), 90, np.uint8)
    right = left.copy()
    left[16:32, 8:24], right[16:32, 40:56] = (250, 20, 20), (250, 20, 20)
    first, second = Extractors([teacher])({"depth": torch.stack([teacher.inputs(left), teacher.inputs(right)])})[
        "depth"
    ]
    first, second = first.reshape(8, 8, 32), second.reshape(8, 8, 32)
    torch.testing.assert_close(first[2:4, 1:3], second[2:4, 5:7], atol=0.05, rtol=0)
    assert (first - second).abs().amax(-1)[2:4, 1:3].min() > 0.5
    torch.testing.assert_close(first[6:], second[6:])


def test_a_linear_map_of_the_pixels_predicts_random_targets_in_part():
    teacher = RandomTeacher(name="gen", shape=(1, 32))
    rng = np.random.default_rng(0)
    images = [np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(200)]
    pixels = torch.stack([teacher.inputs(rgb) for rgb in images])
    targets = Extractors([teacher])({"gen": pixels})["gen"][:, 0]
    colour = torch.cat([pixels.float().mean((2, 3)) / 255, torch.ones(200, 1)], 1)
    fitted = colour @ torch.linalg.lstsq(colour[:100], targets[:100]).solution
    left = (fitted[100:] - targets[100:]).pow(2).mean() / (targets[100:] - targets[:100].mean(0)).pow(2).mean()
    assert left < 0.6


# The depth decoder


def test_a_depth_picture_has_fourteen_pixels_a_token_and_is_not_negative():
    torch.manual_seed(0)
    decoder = DepthDecoder(16, 8, (4, 8, 8, 8))
    depth = decoder([torch.randn(2, 36, 16)] * 4)
    assert depth.shape == (2, 84, 84)
    assert depth.min() >= 0
    picture = as_picture(depth)
    assert picture.amin() >= 0
    assert picture.amax() <= 1
    assert as_picture(torch.ones(1, 3, 3)).abs().max() == 0
    with pytest.raises(ShapeError, match="3 levels of 36 tokens"):
        decoder([torch.randn(2, 36, 16)] * 3)
