"""What others open: plain transformers the language model, our class the whole, the published loader its own files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.language.sequence import IGNORE, Encoded
from mmcore.language.splice import lay_out
from mmcore.runs.build import build_model
from mmcore.runs.export import export
from mmcore.runs.opened import OpenedModel, from_pretrained
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings
from mmcore_griffon.config import VARIANTS
from mmcore_griffon.model import Griffon
from mmcore_griffon.published_config import from_published, to_published

TINY = [name for name in VARIANTS if name.startswith("tiny")]


def opened(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedModel:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    family = OpenedPlugin.open("griffon")
    settings = Settings(plugin="griffon", variant=variant, stage=family.stages(variant)[0], data=str(tmp_path))
    model = build_model(family, settings)
    return OpenedModel(model.eval(), settings, family, None, 0, "test")


@pytest.mark.parametrize("variant", TINY)
def test_plain_transformers_opens_the_language_model_and_our_class_the_whole(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    one = opened(variant, tmp_path, monkeypatch)
    export(one, "hf", tmp_path / "out")
    # With its fused attention transformers 5.17 leaves out the cap on Gemma 2's scores.
    eager = {"dtype": torch.float32, "attn_implementation": "eager"}
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), **eager).eval()
    ids = torch.arange(3, 40)[None]
    assert isinstance(one.model, Griffon)
    language = one.model.language
    sequences = lay_out([Encoded(ids[0].numpy(), np.full(37, IGNORE))], {})
    with torch.no_grad():
        ours = language.lm_head(language(language.embed(sequences, {}), sequences).last)
        torch.testing.assert_close(plain(ids).logits, ours, rtol=1e-4, atol=1e-4)
    again = from_pretrained(tmp_path / "out").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in one.model.state_dict().items())


def test_the_published_folder_says_what_its_loader_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(opened("tiny-qwen25", tmp_path, monkeypatch), "upstream", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["unshared_visual_encoder"]) == ("qwen2_Griffon", True)
    assert {"generation_config.json", "tokenizer.json", "model.safetensors"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("tiny")])
def test_published_configurations_come_back_as_they_were(variant: str) -> None:
    config = VARIANTS[variant]
    again = from_published(to_published(config))
    for name in ("tower", "projector", "template", "region_tower", "max_length", "image_aspect"):
        assert getattr(again, name) == getattr(config, name), name
    assert {name: again.language.get(name) for name in config.language} == config.language
