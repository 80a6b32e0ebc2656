"""Weights that others published: told apart by their names, filled part by part, refused when they do not fit."""

import json

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.vision.convnext import ConvNextTower
from mmcore.weights.files import write_safetensors
from mmcore_visper.config import TINY
from mmcore_visper.model import Visper
from mmcore_visper.published_config import to_published

LANGUAGE = {name: value for name, value in TINY.language.items() if name != "vocab_size"}


def fresh(seed: int = 1, **changes) -> Visper:
    torch.manual_seed(seed)
    return Visper(TINY.replace(**changes))


def published(model: Visper) -> dict[str, torch.Tensor]:
    return model.published().to_published(model.state_dict())


def language_folder(path, words=1000, **changes):
    """A language model with fewer words than ours, as it is published."""
    from transformers import LlamaConfig, LlamaForCausalLM

    entries = {**LANGUAGE, **changes}
    entries.pop("model_type")
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=words, **entries))
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("changes", [{}, {"num_task_tokens": 0}, {"tasks": ["seg"]}, {"use_contrastive": False}])
def test_every_published_name_leads_back(changes):
    model = fresh(**changes)
    state, report = model.published().to_ours(published(model), model.state_dict())
    assert not report.new
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_a_published_checkpoint_of_pt_starts_ift_without_its_predictors(tmp_path):
    pt = fresh()
    extra = {"dav2_backbone.pretrained.cls_token": torch.ones(1), "oneformer.model.x": torch.ones(1)}
    write_safetensors(published(pt) | extra, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(to_published(pt.config)))
    ift = fresh(2, predictors=False)
    report = ift.initialise(tmp_path)
    assert not report.new
    assert "oneformer.model.x" in report.ignored
    for name, tensor in ift.state_dict().items():
        assert torch.equal(tensor, pt.state_dict()[name]), name


def test_an_ift_checkpoint_leaves_predictors_new_and_a_damaged_one_is_refused(tmp_path):
    ift = fresh(predictors=False)
    tensors = published(ift)
    write_safetensors(tensors, tmp_path / "ift")
    pt = fresh(2)
    new = pt.initialise(tmp_path / "ift").new
    assert {name.split(".")[0] for name in new} == {"predictors", "logit_scales", "depth_decoder"}
    heads = published(pt)
    del heads["image_gen_heads.0.projector.proj_in.bias"]
    write_safetensors(heads, tmp_path / "damaged")
    with pytest.raises(WeightsError, match="lacks 1 tensor"):
        pt.initialise(tmp_path / "damaged")


def test_a_language_model_fills_the_words_it_has_and_new_rows_are_its_mean(tmp_path):
    theirs = language_folder(tmp_path)
    model = fresh()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report = model.initialise(tmp_path)
    state = model.state_dict()
    assert all(name.startswith("language.") for name in report.filled)
    rows = theirs.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(state["language.model.embed_tokens.weight"][:1000], rows)
    torch.testing.assert_close(state["language.model.embed_tokens.weight"][1010], rows.mean(0))
    for name in state:
        assert name.startswith("language.") or torch.equal(state[name], before[name])


def test_a_language_model_with_tied_words_gives_the_output_layer_its_own_copy(tmp_path):
    language_folder(tmp_path, tie_word_embeddings=True)
    model = fresh()
    model.initialise(tmp_path)
    state = model.state_dict()
    assert torch.equal(state["language.lm_head.weight"], state["language.model.embed_tokens.weight"])
    assert model.language.lm_head.weight is not model.language.embed_tokens.weight


@pytest.mark.parametrize(("entry", "value"), [("rope_theta", 5e5), ("num_attention_heads", 8), ("rms_norm_eps", 1e-3)])
def test_numbers_that_shapes_do_not_show_are_compared(tmp_path, entry, value):
    changes = {entry: value} | ({"num_key_value_heads": 4, "head_dim": 16} if entry == "num_attention_heads" else {})
    language_folder(tmp_path, **changes)
    with pytest.raises(WeightsError, match=entry):
        fresh().initialise(tmp_path)


def test_phi3_windows_of_published_folders_are_translated_before_they_are_compared(tmp_path):
    language = {**TINY.language, "model_type": "phi3", "sliding_window": 31, "pad_token_id": 0}
    model = fresh(language=language, template="llava_phi_3", predictors=False)
    write_safetensors(published(model), tmp_path)
    entries = to_published(model.config)
    assert entries["sliding_window"] == 30
    (tmp_path / "config.json").write_text(json.dumps(entries))
    model.initialise(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**entries, "sliding_window": 31}))
    with pytest.raises(WeightsError, match="sliding_window"):
        model.initialise(tmp_path)


def test_clip_fills_the_tower_alone(tmp_path):
    source, model = fresh(3), fresh()
    prefix = "model.vision_tower.vision_tower."
    tensors = {n.removeprefix(prefix): t for n, t in published(source).items() if n.startswith(prefix)}
    write_safetensors(tensors | {"text_model.x": torch.ones(1), "logit_scale": torch.ones(())}, tmp_path)
    report = model.initialise(tmp_path)
    assert all(name.startswith("tower.") for name in report.filled)
    for name, tensor in source.tower.state_dict().items():
        assert torch.equal(model.tower.state_dict()[name], tensor)


@pytest.mark.parametrize("prefix", ["visual.trunk.", ""])
def test_a_convnext_comes_from_open_clip_or_timm(tmp_path, prefix):
    tower = ConvNextTower(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), image_size=64)
    config = TINY.replace(tower=tower)
    source, model = Visper(config), Visper(config)
    tensors = {prefix + n.removeprefix("trunk."): t for n, t in source.tower.state_dict().items() if "head" not in n}
    write_safetensors(tensors, tmp_path)
    model.initialise(tmp_path)
    for name, tensor in source.tower.state_dict().items():
        assert torch.equal(model.tower.state_dict()[name], tensor) or "head" in name


def test_a_projector_and_a_depth_decoder_fill_their_parts(tmp_path):
    source, model = fresh(3), fresh()
    torch.save({n: t for n, t in published(source).items() if "mm_projector" in n}, tmp_path / "mm_projector.bin")
    assert len(model.initialise(tmp_path / "mm_projector.bin").filled) == 4
    assert source.depth_decoder is not None
    decoder = source.depth_decoder.state_dict() | {"pretrained.cls_token": torch.ones(1)}
    torch.save(decoder, tmp_path / "depth_anything_v2_vitl.pth")
    report = model.initialise(tmp_path / "depth_anything_v2_vitl.pth")
    assert all(name.startswith("depth_decoder.") for name in report.filled)
    with pytest.raises(WeightsError, match="no use"):
        fresh(predictors=False).initialise(tmp_path / "depth_anything_v2_vitl.pth")


def test_a_file_of_another_kind_is_refused(tmp_path):
    write_safetensors({"backbone.conv1.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(WeightsError, match=r"backbone\.conv1\.weight"):
        fresh().initialise(tmp_path)
    with pytest.raises(WeightsError, match="upstream"):
        fresh().published("hf2")
