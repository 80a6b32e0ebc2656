"""A base model by folder: every size is read, its weights fill their part, and it says what transformers says."""

import json

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, RecipeError, WeightsError
from mmcore.language import models
from mmcore.language.conversation_templates import template
from mmcore.language.folder import read_language
from mmcore.language.labels import encode
from mmcore.language.llava.base import read_base
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.llava.model import LlavaModel
from mmcore.language.llava.names import only, read_published
from mmcore.language.sequence import IGNORE, Encoded, Turn
from mmcore.language.splice import lay_out
from mmcore.language.tokens import load_tokenizer
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.towers import build_tower, make_tower
from mmcore.weights.files import read_tensors

from .bases import CHATML, EXTRA, write_language, write_llava, write_tower, write_words

SPOKEN = {"llama": "llava_llama_3", "qwen2": "qwen_chatml", "qwen3": "qwen_chatml", "phi3": "llava_phi_3",
          "gemma2": "gemma_instruct"}  # fmt: skip
TOWERS = ("clip_vision_model", "siglip_vision_model")


@pytest.mark.parametrize("kind", EXTRA)
def test_a_language_model_says_what_transformers_says(kind, tmp_path):
    plain = write_language(tmp_path / "base", kind)
    read = read_base("language", str(tmp_path / "base"), {})
    assert (read["template"], read["tokenizer"]) == (SPOKEN[kind], str(tmp_path / "base"))
    model = models.build(read["language"]).eval()
    models.fill(model, read_tensors(tmp_path / "base"))
    ids = torch.randint(3, 1000, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(_logits(model, ids), plain(ids).logits, rtol=1e-4, atol=1e-4)


def _logits(model, ids):
    plan = lay_out([Encoded(row.numpy(), np.full(len(row), IGNORE)) for row in ids], {})
    return model.lm_head(model(model.embed(plan, {}), plan).last)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_a_tower_sees_what_transformers_sees(kind, layer, tmp_path):
    plain = write_tower(tmp_path / "tower", kind)
    entries = read_base("vision", str(tmp_path / "tower"), {})["tower"]
    config = LlavaConfig(language=TINY, tower=make_tower({**entries, "select_layer": layer}))
    model = LlavaModel(config)
    report = model.initialise_part(tmp_path / "tower", "tower")
    assert not [name for name in report.new if name.startswith("tower.")]
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = plain(pictures, output_hidden_states=True).hidden_states
        wanted = states[layer][:, 1:] if kind.startswith("clip") else states[layer]
        torch.testing.assert_close(model.tower(pictures), wanted, rtol=1e-5, atol=1e-5)


TINY = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


def test_pictures_are_prepared_as_the_folder_says(tmp_path):
    write_tower(tmp_path / "tower")
    tower = make_tower(read_base("vision", str(tmp_path / "tower"), {})["tower"])
    pixels = LlavaConfig(language=TINY, tower=tower).processor(None).pixels
    assert pixels == ClipImages(32, "square", (0.5, 0.4, 0.3), (0.5, 0.6, 0.7), "bilinear")
    settings = tmp_path / "tower" / "preprocessor_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "size": {"height": 64, "width": 64}}))
    with pytest.raises(WeightsError, match="64 pixels, the tower takes 32"):
        read_base("vision", str(tmp_path / "tower"), {})


@pytest.mark.parametrize("part", ["language", "vision"])
def test_an_unknown_architecture_says_so_first_and_names_the_known_ones(part, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    with pytest.raises(RecipeError, match="'mamba' is no") as caught:
        read_base(part, str(tmp_path), {})
    assert ("qwen3" if part == "language" else "siglip") in str(caught.value)
    with pytest.raises(MissingDataError, match=r"no config\.json here"):
        read_base(part, str(tmp_path.parent), {})
    with pytest.raises(MissingDataError, match="there is no folder"):
        read_base(part, str(tmp_path / "nowhere"), {})


def test_a_named_template_and_tokenizer_win_and_must_fit(tmp_path):
    write_language(tmp_path / "base", "llama", CHATML)
    assert read_base("language", str(tmp_path / "base"), {"template": "chatml"})["template"] == "chatml"
    write_words(tmp_path / "other", (*CHATML, "<|more|>"))
    read = read_base("language", str(tmp_path / "base"), {"tokenizer": str(tmp_path / "other")})
    assert read["tokenizer"] == str(tmp_path / "other")
    with pytest.raises(RecipeError, match="there is no conversation template 'chatlm'"):
        read_base("language", str(tmp_path / "base"), {"template": "chatlm"})


def test_a_vocabulary_grows_where_the_tokenizer_has_more_words(tmp_path):
    write_language(tmp_path / "base", "llama", CHATML, vocab_size=700)
    words = len(load_tokenizer(tmp_path / "base"))
    assert words > 700
    read = read_base("language", str(tmp_path / "base"), {})
    assert read["language"]["vocab_size"] == words
    model = LlavaModel(LlavaConfig(language=read["language"]))
    model.initialise_part(tmp_path / "base", "language")
    rows = model.language.embed_tokens.weight
    torch.testing.assert_close(rows[-1], rows[:700].mean(0))


def test_stretched_positions_keep_their_rule():
    given = {"model_type": "llama", **TINY, "rope_theta": 5e5, "max_position_embeddings": 256,
             "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 64}}  # fmt: skip
    read = read_language(given, "here")
    assert read["rope_theta"] == 5e5
    assert read["rope_scaling"]["factor"] == 8.0
    assert read_language(read, "here") == read
    assert models.make_config(read).rope_parameters == models.make_config(given).rope_parameters


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3"])
def test_a_whole_llava_is_read_part_by_part(kind, tower, tmp_path):
    plain = write_llava(tmp_path / "llava", kind, tower)
    write_words(tmp_path / "llava", CHATML)
    language = read_base("language", str(tmp_path / "llava"), {})
    config = LlavaConfig(**language, tower=make_tower(read_base("vision", str(tmp_path / "llava"), {})["tower"]))
    model = LlavaModel(config).eval()
    report = model.initialise(tmp_path / "llava")
    assert not report.new
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = torch.stack(list(plain.get_image_features(pictures).pooler_output))
        torch.testing.assert_close(model.see(pictures), wanted, rtol=1e-5, atol=1e-5)
    parts = only("tower", read_published(tmp_path / "llava"), "here")
    assert all(name.startswith("vision_model.") for name in parts)
    with pytest.raises(WeightsError, match="nothing in this file is of the projector"):
        only("projector", parts, "here")


def test_only_answers_and_the_end_of_their_turns_are_learned_in_chatml(tmp_path):
    write_words(tmp_path / "words", CHATML)
    tokenizer = load_tokenizer(tmp_path / "words")
    turns = [Turn("user", "What?"), Turn("assistant", "a red cup"), Turn("user", "Where?"), Turn("assistant", "table")]
    encoded = encode(turns, template("qwen_chatml"), tokenizer, has_image=False)
    assert encoded.problem is None
    learned = tokenizer.decode([i for i in encoded.labels if i != IGNORE])
    assert learned == "a red cup<|im_end|>\ntable<|im_end|>\n"


def test_a_tower_of_another_kind_is_whole_and_single_entries_change_the_old_one():
    config = LlavaConfig(language=TINY)
    assert config.replace(tower={"image_size": 224}).tower.hidden_size == 1024
    other = config.replace(tower={"kind": "siglip", "hidden_size": 32, "num_heads": 2}).tower
    assert (type(other).__name__, other.image_size) == ("SiglipTower", 384)
    with pytest.raises(RecipeError, match="no vision tower of kind 'siglop'"):
        config.replace(tower={"kind": "siglop"})
    with pytest.raises(RecipeError, match="tower has no setting 'imagesize'"):
        config.replace(tower={"kind": "siglip", "imagesize": 3})
    with pytest.raises(RecipeError, match="hidden_size is not said"):
        config.replace(language={"model_type": "qwen2"})
    assert build_tower(make_tower({"kind": "siglip", "num_layers": 1, "hidden_size": 32, "num_heads": 2}))
