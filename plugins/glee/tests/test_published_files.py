"""Exports of every size carry each published name, those that stand for another one's tensor included.

The names are written down here anew, from the published files, so that the weight map does not judge itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.weights.files import write_safetensors
from mmcore_glee.config import TINY, GleeConfig
from mmcore_glee.model import Glee
from safetensors.torch import load_file, save_file

SMALL = TINY.replace(num_queries=12, resnet_depths=(2, 1, 1, 1), text_vocabulary=1000, published_init=True)
SIZES = {
    "lite": SMALL,
    "plus": SMALL.replace(
        backbone="swin", swin_width=8, swin_depths=(2, 2, 3, 1), swin_heads=(1, 2, 2, 4), swin_window=4
    ),
    "pro": SMALL.replace(
        backbone="eva",
        eva_width=24,
        eva_depth=3,
        eva_heads=2,
        eva_window=4,
        eva_image_size=128,
        eva_window_blocks=(0, 1),
    ),
}
LABELS = ("coco_label_enc", "obj365_label_enc", "vg_label_enc", "grounding_label_enc", "ytvis19_label_enc",
          "ytvis21_label_enc", "ovis_label_enc", "uvo_label_enc", "bdd_det", "bdd_inst")  # fmt: skip


def both(*names: str) -> Iterator[str]:
    for name in names:
        yield f"{name}.weight"
        yield f"{name}.bias"


def text(part: str, config: GleeConfig) -> Iterator[str]:
    top = f"{part}.text_model"
    yield from (f"{top}.embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
    for i in range(config.text_layers):
        layer = f"{top}.encoder.layers.{i}"
        yield from both(*(f"{layer}.self_attn.{x}_proj" for x in "qkv"), f"{layer}.self_attn.out_proj")
        yield from both(f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
    yield from both(f"{top}.final_layer_norm")


def resnet(config: GleeConfig) -> Iterator[str]:
    def normed(conv: str) -> Iterator[str]:
        yield f"{conv}.weight"
        yield from (f"{conv}.norm.{x}" for x in ("weight", "bias", "running_mean", "running_var"))

    yield from normed("backbone.stem.conv1")
    for stage, depth in enumerate(config.resnet_depths, 2):
        for j in range(depth):
            for conv in ("conv1", "conv2", "conv3", *(("shortcut",) if j == 0 else ())):
                yield from normed(f"backbone.res{stage}.{j}.{conv}")


def swin(config: GleeConfig) -> Iterator[str]:
    yield from both("backbone.patch_embed.proj", "backbone.patch_embed.norm")
    for i, depth in enumerate(config.swin_depths):
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            yield from (f"{block}.attn.relative_position_{x}" for x in ("bias_table", "index"))
            yield from both(
                *(f"{block}.{x}" for x in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"))
            )
        yield from both(f"backbone.norm{i}")
        if i < 3:
            yield f"backbone.layers.{i}.downsample.reduction.weight"
            yield from both(f"backbone.layers.{i}.downsample.norm")


def eva(config: GleeConfig) -> Iterator[str]:
    net = "backbone.net"
    yield f"{net}.pos_embed"
    yield from both(f"{net}.patch_embed.proj")
    ropes = ["rope_win", "rope_glb", *(f"blocks.{i}.attn.rope" for i in range(config.eva_depth))]
    yield from (f"{net}.{rope}.freqs_{x}" for rope in ropes for x in ("cos", "sin"))
    for i in range(config.eva_depth):
        block = f"{net}.blocks.{i}"
        yield from (f"{block}.attn.{x}" for x in ("q_bias", "v_bias", *(f"{y}_proj.weight" for y in "qkv")))
        yield from both(*(f"{block}.{x}" for x in ("norm1", "norm2", "attn.proj", "mlp.w1", "mlp.w2", "mlp.w3")))
        yield from both(f"{block}.mlp.ffn_ln")
    yield from both("backbone.simfp_3.0")
    for conv in ("simfp_3.1", "simfp_3.2", "simfp_4.0", "simfp_4.1", "simfp_5.1", "simfp_5.2"):
        yield from (f"backbone.{conv}.{x}" for x in ("weight", "norm.weight", "norm.bias"))


def pixel_decoder(config: GleeConfig) -> Iterator[str]:
    if config.backbone != "eva":
        yield from both(*(f"pixel_decoder.input_proj.{i}.{j}" for i in range(4) for j in range(2)))
    encoder = "pixel_decoder.transformer.encoder"
    yield "pixel_decoder.transformer.level_embed"
    for i in range(config.encoder_layers):
        attention = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        yield from both(*(f"{encoder}.layers.{i}.self_attn.{x}" for x in attention))
        yield from both(*(f"{encoder}.layers.{i}.{x}" for x in ("norm1", "linear1", "linear2", "norm2")))
    fusion = f"{encoder}.vl_layers.0.b_attn"
    yield from (f"{fusion}.gamma_{x}" for x in "vl")
    yield from both(*(f"{fusion}.layer_norm_{x}" for x in "vl"))
    yield from both(*(f"{fusion}.attn.{x}{y}_proj" for x in ("", "values_", "out_") for y in "vl"))
    yield from (
        f"pixel_decoder.{x}_1.{y}" for x in ("adapter", "layer") for y in ("weight", "norm.weight", "norm.bias")
    )
    yield from both("pixel_decoder.mask_features")


def predictor(config: GleeConfig) -> Iterator[str]:
    yield "predictor.category_embed"
    yield from both(
        "predictor.enc_output", "predictor.enc_output_norm", "predictor.decoder_norm", "predictor.decoder.norm"
    )
    yield from both(*(f"predictor.confidence_score.layers.{i}" for i in range(2)))
    yield from both(*(f"predictor.mask_embed.layers.{i}" for i in range(3)))
    yield from both(*(f"predictor.decoder.ref_point_head.layers.{i}" for i in range(2)))
    yield from (f"predictor.{x}.weight" for x in LABELS)
    for i in range(config.decoder_layers):
        layer = f"predictor.decoder.layers.{i}"
        yield from (f"{layer}.self_attn.in_proj_{x}" for x in ("weight", "bias"))
        attention = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        yield from both(f"{layer}.self_attn.out_proj", *(f"{layer}.cross_attn.{x}" for x in attention))
        yield from both(*(f"{layer}.{x}" for x in ("norm1", "norm2", "norm3", "linear1", "linear2")))
    yield from both(*(f"{owner}.layers.{i}" for owner in boxes(config) for i in range(3)))


def boxes(config: GleeConfig) -> list[str]:
    """All names of the one box head."""
    owners = [f"predictor.{x}bbox_embed.{i}" for x in ("", "decoder.") for i in range(config.decoder_layers)]
    return ["predictor._bbox_embed", *owners]


def names(config: GleeConfig) -> set[str]:
    """Every name of a published file of these sizes."""
    found = {"lang_projection", "pn_indicator.weight", *(f"mask_sptial_embed.{i}" for i in range(4))}
    found |= set(text("text_encoder", config))
    if config.text == "teacher":
        found |= set(text("text_encoder_teacher", config))
    if config.visual_prompt:
        found |= set(both(*(f"sot_fuser.refine.{i}" for i in range(3))))
    found |= set({"resnet": resnet, "swin": swin, "eva": eva}[config.backbone](config))
    return {f"glee.{name}" for name in (*found, *pixel_decoder(config), *predictor(config))} | {
        "criterion.empty_weight"
    }


@pytest.fixture(scope="module", params=[(size, stage) for size in SIZES for stage in (1, 2)], ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Glee, Path]:
    """A model of a size and stage, and its weights in a file under the published names."""
    size, stage = request.param
    first = {"text": "frozen", "visual_prompt": False} if stage == 1 else {}
    torch.manual_seed(0)
    model = Glee(SIZES[size].replace(**first))
    folder = tmp_path_factory.mktemp("published")
    write_safetensors(model.published().to_published(model.state_dict()), folder, 1 << 40, {})
    return model, next(folder.glob("*.safetensors"))


def test_a_file_has_every_published_name_and_no_other(written: tuple[Glee, Path]) -> None:
    model, file = written
    assert set(load_file(file)) == names(model.config)


def test_names_of_one_tensor_hold_it_and_the_model_is_read_back_whole(written: tuple[Glee, Path]) -> None:
    model, file = written
    tensors = load_file(file)
    for i in range(3):
        for kind in ("weight", "bias"):
            heads = [tensors[f"glee.{owner}.layers.{i}.{kind}"] for owner in boxes(model.config)]
            assert len(heads) == 1 + 2 * model.config.decoder_layers
            assert all(torch.equal(head, heads[0]) for head in heads)
    for kind in ("weight", "bias"):
        assert torch.equal(
            tensors[f"glee.predictor.decoder.norm.{kind}"], tensors[f"glee.predictor.decoder_norm.{kind}"]
        )
    torch.manual_seed(1)
    other = Glee(model.config)
    report = other.initialise(file)
    assert not report.new
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_one_name_of_several_is_enough_and_several_must_agree(written: tuple[Glee, Path], tmp_path: Path) -> None:
    model, file = written
    tensors = load_file(file)
    fewer = {
        name: tensor for name, tensor in tensors.items() if "_bbox_embed" not in name and "decoder_norm" not in name
    }
    save_file(fewer, tmp_path / "fewer.safetensors")
    other = Glee(model.config)
    other.initialise(tmp_path / "fewer.safetensors")
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    wrong = "glee.predictor.decoder.bbox_embed.1.layers.0.weight"
    save_file({**tensors, wrong: tensors[wrong] + 1}, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match="bbox_embed"):
        Glee(model.config).initialise(tmp_path / "wrong.safetensors")
