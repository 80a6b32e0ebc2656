"""Published files in and out: what begins a run, what an export holds, what is refused."""

import json

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.language.llava.checkpoints import merged
from mmcore.weights.files import write_safetensors
from mmcore_glamm import weights
from mmcore_glamm.config import TINY
from mmcore_glamm.export import published_config
from mmcore_glamm.model import Glamm
from mmcore_glamm.tokens import TokenIds


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Glamm(TINY).eval()


@pytest.fixture(scope="module")
def published(model):
    return model.published().to_published({n: t.detach() for n, t in model.state_dict().items()})


def write(tensors, folder):
    folder.mkdir(exist_ok=True)
    write_safetensors(dict(tensors), folder, 1 << 40, {})
    return folder


def test_a_published_folder_has_no_tower_and_two_precisions(model, published):
    made = model.export_tensors(published, "upstream", None)
    assert not [name for name in made if name.startswith(weights.TOWER)]
    wide = {name for name, tensor in made.items() if tensor.dtype == torch.float32}
    assert all(name.startswith(weights.WIDE) or name.endswith(".inv_freq") for name in wide)
    assert {tensor.dtype for name, tensor in made.items() if name not in wide} == {torch.bfloat16}
    assert sum(name.endswith(".inv_freq") for name in made) == TINY.num_layers


def test_a_published_folder_begins_a_run_and_leaves_the_tower_to_clip(model, published, tmp_path):
    folder = write(model.export_tensors(published, "upstream", "fp32"), tmp_path / "glamm")
    torch.manual_seed(1)
    other = Glamm(TINY)
    report = other.initialise(folder)
    assert {name.split(".")[0] for name in report.new} == {"tower"}
    for name, tensor in other.state_dict().items():
        if not name.startswith("tower."):
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)


def test_a_llava_begins_a_run_and_the_new_words_are_drawn(model, published, tmp_path):
    own = (weights.GROUNDING, weights.REGION, weights.PROJECTION)
    llava = {name: tensor for name, tensor in published.items() if not name.startswith(own)}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        llava[name] = llava[name][:-7]
    other = Glamm(TINY)
    report = other.initialise(write(llava, tmp_path / "llava"))
    assert {name.split(".")[0] for name in report.new} == {"region_encoder", "seg_projection", "sam"}
    words = other.language.embed_tokens.weight
    torch.testing.assert_close(words[:-7], model.language.embed_tokens.weight[:-7])
    assert words[-7:].std() > 0
    assert len(words[-7:].unique(dim=0)) == 7


def test_sam_s_own_file_fills_sam_and_one_of_another_size_is_refused(model, published, tmp_path):
    prefix = weights.GROUNDING
    sam = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
    torch.save(sam, tmp_path / "sam.pth")
    other = Glamm(TINY)
    report = other.initialise(tmp_path / "sam.pth")
    assert {name.split(".")[0] for name in report.filled} == {"sam"}
    smaller = TINY.replace(sam={"hidden_size": 32})
    with pytest.raises(WeightsError, match=r"sam\.image_encoder\.pos_embed is") as refused:
        Glamm(smaller).initialise(tmp_path / "sam.pth")
    assert "another shape" in str(refused.value)
    assert refused.value.exit_code == 1


def test_a_folder_without_the_region_encoder_is_refused(model, published, tmp_path):
    lacking = {name: tensor for name, tensor in published.items() if not name.startswith(weights.REGION)}
    with pytest.raises(WeightsError, match="lacks"):
        Glamm(TINY).initialise(write(lacking, tmp_path / "lacking"))


def test_second_names_of_the_region_encoder_are_left_out(published, tmp_path):
    twice = dict(published)
    for name in [n for n in published if n.startswith(weights.REGION)]:
        twice[name.replace(weights.REGION, "model.spi_module.")] = published[name]
    report = Glamm(TINY).initialise(write(twice, tmp_path / "twice"))
    assert len([name for name in report.ignored if "spi_module" in name]) == len(twice) - len(published)


def test_a_training_checkpoint_s_adapters_are_folded_in(model, published, tmp_path):
    name = "model.layers.1.self_attn.q_proj"
    down, up = torch.randn(4, TINY.width), torch.randn(TINY.width, 4)
    adapted = {**published, f"{name}.lora_A.default.weight": down, f"{name}.lora_B.default.weight": up}
    other = Glamm(TINY.replace(adapter_alpha=8.0))
    other.initialise(write(adapted, tmp_path / "adapted"))
    found = other.state_dict()[f"language.{name}.weight"]
    torch.testing.assert_close(found, published[f"{name}.weight"] + 2.0 * up @ down)
    del adapted[f"{name}.lora_B.default.weight"]
    with pytest.raises(WeightsError, match="incomplete"):
        merged(adapted, 16.0)


def test_the_configuration_says_what_the_released_loader_asks(tmp_path):
    entries = json.loads(json.dumps(published_config(TINY, TokenIds(1002, 1004))))
    assert entries["architectures"] == ["GLaMMForCausalLM"]
    assert entries["bbox_token_idx"] == 1002
    assert entries["out_dim"] == TINY.sam.out_channels
    assert entries["mm_hidden_size"] == TINY.tower.channels
