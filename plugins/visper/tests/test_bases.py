"""A base model by folder, from the command line's words to the weights a run starts with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.errors import RecipeError, UsageError
from mmcore.runs.initialise import starting_model
from mmcore.runs.settings import Request, read_settings, settle, write_config
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

LANGUAGE = {
    "vocab_size": 1100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
         "image_size": 96, "patch_size": 16}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`language` and `tower` as transformers writes them."""
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LANGUAGE)).save_pretrained(root / "language")
    for path in write_tokenizer(root, "made", "a red cup", 1).iterdir():
        (root / "language" / path.name).write_bytes(path.read_bytes())
    AutoModel.from_config(AutoConfig.for_model("siglip_vision_model", **TOWER)).save_pretrained(root / "tower")
    return root


def request(bases: Path, *sets: str, **more: Any) -> Request:
    given = {"plugin": "visper", "stage": "pt", "variant": "tiny", "data": bases, **more}
    return Request(**given, sets=tuple(f"model.{one}" for one in sets))


def test_sizes_stand_in_the_settings_and_weights_come_from_the_folders(bases, tmp_path):
    asked = request(bases, f"language={bases}/language", f"vision={bases}/tower", "tower={kind: clip}")
    with pytest.raises(RecipeError, match=r"model\.vision and model\.tower both describe it"):
        settle(asked)
    family, settings, origins = settle(request(bases, f"language={bases}/language", f"vision={bases}/tower"))
    model = settings.stage.model
    assert (model["language"]["hidden_size"], model["tower"]["kind"], model["template"]) == (
        32,
        "siglip",
        "llava_llama_3",
    )
    assert "vision" not in model
    assert origins["model.tower.patch_size"] == f"config.json of {bases}/tower"
    write_config(settings, tmp_path)
    assert read_settings(tmp_path) == settings
    built, told = starting_model(family, settings)
    assert [entry["source"] for entry in told] == [f"{bases}/language", f"{bases}/tower"]
    plain = AutoModelForCausalLM.from_pretrained(bases / "language")
    torch.testing.assert_close(
        built.language.model.layers[1].mlp.up_proj.weight, plain.model.layers[1].mlp.up_proj.weight
    )
    tower = AutoModel.from_pretrained(bases / "tower")
    torch.testing.assert_close(built.tower.patch_embedding.bias, tower.embeddings.patch_embedding.bias)


def test_nested_settings_arrive_from_a_file_and_beside_a_folder(bases, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"model:\n  language:\n    from: {bases}/language\n    attention_dropout: 0.1\n  tower: {{image_size: 64}}\n"
    )
    _, settings, origins = settle(request(bases, config=config))
    assert settings.stage.model["language"]["attention_dropout"] == 0.1
    assert settings.stage.model["language"]["hidden_size"] == 32
    assert settings.stage.model["tower"] == {"image_size": 64}
    assert origins["model.language.attention_dropout"] == str(config)
    config.write_text("model:\n  language:\n    hidden_size: 64\n")
    _, settings, _ = settle(request(bases, config=config))
    assert settings.stage.model["language"] == {"hidden_size": 64}
    _, settings, _ = settle(request(bases, f"language={bases}/language", "language.attention_dropout=0.2"))
    assert settings.stage.model["language"]["attention_dropout"] == 0.2


def test_a_later_stage_takes_the_sizes_of_the_run_it_starts_from(bases, tmp_path):
    _, first, _ = settle(request(bases, f"language={bases}/language"))
    write_config(first, tmp_path)
    _, second, origins = settle(request(bases, stage="ift", init=(str(tmp_path),)))
    assert second.stage.model["language"] == first.stage.model["language"]
    assert second.stage.model["tokenizer"] == first.stage.model["tokenizer"]
    assert origins["model.language.hidden_size"] == f"--init {tmp_path}"
    assert second.stage.init.published is None


def test_the_recipes_own_start_stays_for_the_other_part(bases):
    _, settings, _ = settle(request(bases, f"language={bases}/language", variant="llava15-llama3-vit"))
    assert settings.stage.init.published == {
        "language": f"{bases}/language", "tower": "hf://openai/clip-vit-large-patch14-336"
    }  # fmt: skip
    with pytest.raises(UsageError, match="starts from stage pt, and nothing is said to fill the rest"):
        settle(request(bases, f"language={bases}/language", variant="llava15-llama3-vit", stage="ift"))


def test_an_unknown_architecture_says_so_before_anything_else(bases, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(RecipeError, match="'mamba' is no language model that mmcore knows"):
        settle(request(bases, f"language={tmp_path}"))
