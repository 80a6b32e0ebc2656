"""What LLaVA's descendants are built on: a small one trains, answers, starts from published files; sizes are theirs."""

import json

import numpy as np
import pytest
import torch
from mmcore.contract.recipe import matches_any
from mmcore.contract.values import MAIN, ConversationSample, Draw, Encoded, Turn
from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.errors import RecipeError, UsageError, WeightsError
from mmcore.language import models, sizes
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.llava.model import LlavaModel
from mmcore.language.llava.published_config import read_settings, write_settings
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.vision.clip_vit import CLIP_VIT, ClipTower
from mmcore.vision.convnext import ConvNextTower
from mmcore.weights.files import write_safetensors

TINY = LlavaConfig(
    language={
        "model_type": "llama", "vocab_size": 1024, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    tower=ClipTower(
        hidden_size=24, intermediate_size=32, num_layers=3, num_heads=2, image_size=28, patch_size=7, projection_dim=16
    ),
    tokenizer="tiny",
    template="llava_llama_3",
    max_length=128,
)  # fmt: skip


class Small(LlavaModel):
    """A family without parts of its own."""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(Small, "TOKENIZERS", {"tiny": lambda: write_tokenizer(tmp_path, "tiny", "a red cup", 1)})
    torch.manual_seed(0)
    return Small(TINY)


def batch(config=TINY, images=(1, 0)):
    samples = []
    for number, has_image in enumerate(images):
        ids = np.array([1, *([IMAGE] if has_image else []), 70, 80 + number, 90, 91])
        shown = {MAIN: (torch.full((3, 28, 28), 0.1 * (number + 1)),)} if has_image else {}
        encoded = Encoded(ids, np.where(np.arange(len(ids)) > 2, ids, IGNORE))
        turns = (Turn("user", "?"), Turn("assistant", "!"))
        samples.append(ConversationSample(encoded, turns, shown, Draw("talk", number, 0), number, (28, 28), number))
    return config.collator(config.processor(None))(samples, 0)


def published(model):
    return model.published().to_published({name: t.detach() for name, t in model.state_dict().items()})


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu", "conv_reduce"])
def test_one_step_reaches_what_is_read_and_nothing_else(projector):
    model = Small(TINY.replace(projector=projector))
    model.tower.requires_grad_(True)
    losses = model.train()(batch(model.config))
    losses["text"].total.backward()
    idle = {name for name, _ in model.named_parameters() if matches_any(model.idle_parameters(None), name)}
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == idle
    assert idle


def test_a_picture_takes_as_many_rows_as_its_projector_gives():
    for projector, rows in (("mlp2x_gelu", 16), ("conv_reduce", 4)):
        config = TINY.replace(projector=projector)
        assert config.image_tokens == rows
        assert len(batch(config).sequences.slots["image"]) == rows
    assert TINY.replace(tower={"select_feature": "cls_patch"}).image_tokens == 17


def test_text_alone_runs_no_vision_part_and_gives_the_same_loss_as_beside_a_picture(small):
    small.eval()
    alone, both = batch(images=(0,)), batch(images=(0, 1))
    assert small.spliced(alone) == {}
    single = small(alone)["text"].total
    pair = small(both)["text"].total - small(batch(images=(1,)))["text"].total
    assert not torch.isclose(pair, single), "the second sample has words of its own"
    small.tower.forward = None  # type: ignore[method-assign]
    assert torch.equal(small(alone)["text"].total, single)


def test_an_answer_follows_each_picture_and_names_are_refused(small):
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in (10, 200)]
    prepared = small.eval().prepare(pictures, prompt="What is it?")
    prepared.max_new_tokens = 3
    answers = small.predict(prepared)
    assert [one.size for one in answers] == [(20, 30)] * 2
    assert all(isinstance(one.text, str) for one in answers)
    with pytest.raises(UsageError, match="LLaVA answers questions"):
        small.prepare(pictures, names=["cup"])


def test_the_whole_model_or_one_part_of_it_starts_from_published_files(small, tmp_path):
    write_safetensors(published(small), tmp_path / "whole")
    torch.manual_seed(1)
    other = Small(TINY)
    assert not other.initialise(tmp_path / "whole").new
    assert all(torch.equal(t, small.state_dict()[name]) for name, t in other.state_dict().items())
    language = {name: t for name, t in published(small).items() if name.startswith(("model.layers", "model.norm"))}
    language["model.embed_tokens.weight"] = published(small)["model.embed_tokens.weight"][:1000]
    write_safetensors(language, tmp_path / "language")
    torch.manual_seed(2)
    third = Small(TINY)
    report = third.initialise(tmp_path / "language")
    assert all(name.startswith("language.") for name in report.filled)
    rows = third.language.embed_tokens.weight
    torch.testing.assert_close(rows[1000], rows[:1000].mean(0))
    with pytest.raises(WeightsError, match="hf2"):
        small.published("hf2")


def test_a_run_keeps_its_tokenizer_and_reads_it_before_any_other(small, tmp_path):
    (tmp_path / "run").mkdir()
    small.tokenizer.add_tokens(["[SEG]"])
    small.keep_files(tmp_path / "run")
    again = Small(TINY)
    again._places = (tmp_path / "run",)
    assert again.tokenizer.get_vocab() == small.tokenizer.get_vocab()


# Settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projectr": "linear"}, "did you mean 'projector'"),
        ({"tower": {"patch": 7}}, "patch_size"),
        ({"image_aspect": "stretch"}, "image_aspect"),
        ({"attention": "flash"}, "attention"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(changes, said):
    with pytest.raises(RecipeError, match=said):
        TINY.replace(**changes)


@pytest.mark.parametrize(
    "changes", [{}, {"projector": "conv_reduce", "image_aspect": "pad"}, {"tower": ConvNextTower()}]
)
def test_a_published_configuration_comes_back_from_its_own_json(changes):
    config = LlavaConfig(language=dict(sizes.LLAMA2_7B)).replace(**changes)
    read = read_settings(json.loads(json.dumps(write_settings(config))), "LlavaLlamaForCausalLM")
    assert LlavaConfig(**read) == config


@pytest.mark.parametrize(
    ("name", "size"),
    [(CLIP_VIT, 336), ("openai/clip-vit-large-patch14", 224), ("checkpoints/clip-vit-large-path14-336_to_1022", 1022)],
)
def test_a_tower_is_told_by_its_published_name(name, size):
    entries = {"mm_vision_tower": name, "mm_projector_type": "linear", "mm_vision_select_layer": -1, **TINY.language}
    tower = read_settings(entries, "llava")["tower"]
    assert (tower.image_size, tower.select_layer, tower.num_layers) == (size, -1, 24)
    with pytest.raises(WeightsError, match="eva"):
        read_settings({**entries, "mm_vision_tower": "eva"}, "llava")
    with pytest.raises(WeightsError, match="mm_projector_type"):
        read_settings({**entries, "mm_projector_type": "perceiver"}, "llava")


# Published sizes, without a network and without numbers


SIZES = {
    "keys_griffon_g_llama2_7b": sizes.LLAMA2_7B,
    "keys_griffon_v1_13b": sizes.LLAMA2_13B,
    "keys_griffon_v2_13b": sizes.LLAMA2_13B,
    "keys_griffon_g_gemma2_9b": sizes.GEMMA2_9B,
    "keys_griffon_g_gemma2_27b": sizes.GEMMA2_27B,
    "keys_griffon_qwen25_7b": sizes.QWEN25_7B,
}


@pytest.mark.parametrize("case", SIZES)
def test_a_published_size_has_the_names_and_shapes_of_its_checkpoint(case, shared):
    told = json.loads((shared / "goldens/griffon" / case / "case.json").read_text())
    language = SIZES[case]
    assert all(language[name] == value for name, value in told["llm_config"].items())
    tower = ClipTower(image_size=told["vision"]["image_size"])
    config = LlavaConfig(
        language=dict(language), tower=tower, projector=told["how"].rsplit("mm_projector_type=", 1)[-1]
    )
    expected = json.loads((shared / "goldens/griffon" / case / "keys.json").read_text())
    optional = tuple(told["optional_prefixes"])
    wanted = {
        name: tuple(_shape(entry)) for name, entry in expected.items() if not optional or not name.startswith(optional)
    }
    before = torch.random.get_rng_state()
    with torch.device("meta"):
        model = Small(config)
    assert torch.equal(torch.random.get_rng_state(), before), "no numbers are drawn"
    found = {name: tuple(t.shape) for name, t in published(model).items()}
    absent = set(told["may_be_absent"])
    assert {n: s for n, s in found.items() if n not in absent} == {n: s for n, s in wanted.items() if n not in absent}


def _shape(entry):
    """An entry is (dtype, shape) or (shape, dtype)."""
    return next(part for part in (entry.values() if isinstance(entry, dict) else entry) if isinstance(part, list))


@pytest.mark.parametrize("language", [sizes.LLAMA3_8B, sizes.PHI3_MINI], ids=["llama3", "phi3"])
def test_other_published_sizes_are_accepted_by_transformers(language):
    with torch.device("meta"):
        model = models.build(dict(language))
    assert model.embed_tokens.num_embeddings == language["vocab_size"]
