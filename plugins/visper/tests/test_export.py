"""The promise of an export: others open it without any of mmcore and get the same answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.recipe import Lora
from mmcore.data.demo.tiny_tokenizer import SPECIAL, make_tokenizer
from mmcore.errors import WeightsError
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation_templates import template
from mmcore.language.generate import Generated, Stop, end_ids, generate
from mmcore.language.llava import answer as llava_answer
from mmcore.language.llava.layout import expressible
from mmcore.language.tokens import load_tokenizer
from mmcore.runs import export as core_export
from mmcore.runs.opened import OpenedModel, from_pretrained
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings
from mmcore.train.lora import add_lora
from mmcore.vision.clip_vit import ClipTower
from mmcore.weights.files import read_tensors
from mmcore_visper import export
from mmcore_visper.config import PHI3_VIT, VARIANTS, VisperConfig
from mmcore_visper.model import Visper
from mmcore_visper.published_config import from_published
from mmcore_visper.recipes import stages
from mmcore_visper.tokenizer import WORDS
from PIL import Image
from safetensors import safe_open
from torch import nn

QUESTION = "What color is the circle?"
NEW_TOKENS = 10

ELSEWHERE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("mmcore"):
            raise ImportError(f"{name} is not for this process")

sys.meta_path.insert(0, Blocker())
try:
    import mmcore
except ImportError:
    pass
else:
    sys.exit("mmcore can be imported here; the test would prove nothing")

import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

picture, question, new_tokens, *folders = sys.argv[1:]
for folder in folders:
    model, trouble = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration", type(model)
    assert not any(trouble.values()), trouble
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    content = [{"type": "image", "path": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    found = model.generate(**inputs, max_new_tokens=int(new_tokens), output_logits=True, return_dict_in_generate=True)
    ids = found.sequences[0, inputs["input_ids"].shape[1] :]
    result = {
        "pixels": inputs["pixel_values"].contiguous(),
        "prompt": inputs["input_ids"][0].contiguous(),
        "ids": ids.contiguous(),
        "logits": torch.cat(found.logits).contiguous(),
    }
    save_file(result, folder + ".found", {"text": processor.decode(ids, skip_special_tokens=True).strip()})
assert not [name for name in sys.modules if name.startswith("mmcore")]
"""


def visper(config: VisperConfig, seed: int = 0) -> Visper:
    """A model whose words differ enough for greedy answers to be certain; like a trained one it says no reserved token,
    whose rows become the image and the task vectors of an export.
    """
    torch.manual_seed(seed)
    model = Visper(config).eval()
    reserved = [number for number, name in enumerate(SPECIAL) if "reserved" in name]
    with torch.no_grad():
        model.language.lm_head.weight.normal_(std=0.25)
        model.language.lm_head.weight[reserved] = 0
    return model


def opened(model: nn.Module, stage: Any = None, variant: str = "tiny") -> OpenedModel:
    stage = stage or stages("tiny")[1]
    settings = Settings(plugin="visper", variant=variant, stage=stage, data="data")
    return OpenedModel(model, settings, OpenedPlugin.open("visper"), None, 7, "test")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taller than wide, so that padding and resizing both happen."""
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((150, 230), Image.Resampling.BICUBIC).save(path)
    return path


CONFIGS = {
    "tiny": VARIANTS["tiny"].replace(image_aspect="pad", predictors=False),
    "square": VARIANTS["tiny"].replace(image_aspect="square"),
    "two tasks": VARIANTS["tiny"].replace(image_aspect="pad", predictors=False, tasks=("seg", "gen")),
    "plain LLaVA": VARIANTS["tiny"].replace(image_aspect="pad", predictors=False, tasks=()),
    "every row": VARIANTS["tiny"].replace(image_aspect="pad", predictors=False, task_token_format="emb"),
}


def phi3(shared: Path) -> VisperConfig:
    """Phi-3 in small, with more rows than its tokenizer has words."""
    tiny = VARIANTS["tiny"]
    small = {name: tiny.language[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return PHI3_VIT.replace(
        tower=tiny.tower,
        tasks=tiny.tasks,
        predictors=False,
        image_aspect="pad",
        tokenizer=str(shared / "goldens/visper/data_conversations/tokenizer_phi3"),
        language=small | heads | {"vocab_size": 640, "eos_token_id": 559, "pad_token_id": 559},
    )


class Exported:
    """Models of several kinds, their exported folders, and what a process without mmcore answered with each."""

    def __init__(self, models: dict[str, Visper], picture: Path, root: Path) -> None:
        self.models, self.picture, self.root = models, picture, root
        for name, model in models.items():
            core_export.export(opened(model), "hf", root / name)
        folders = [str(root / name) for name in models]
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, str(picture), QUESTION, str(NEW_TOKENS), *folders],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            cwd=root,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def found(self, name: str) -> tuple[str, dict[str, torch.Tensor]]:
        with safe_open(self.root / f"{name}.found", "pt") as file:
            return file.metadata()["text"], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def exported(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    models = {name: visper(config) for name, config in CONFIGS.items()}
    folder = Path(os.environ.get("MMCORE_SHARED") or Path(__file__).resolve().parents[4] / "shared")
    if folder.is_dir():
        models["phi3"] = visper(phi3(folder))
    return Exported(models, picture, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", [*CONFIGS, "phi3"])
def test_plain_transformers_gives_the_same_answer_without_mmcore(name, exported):
    if name not in exported.models:
        pytest.skip("no tokenizer of Phi-3 here; set MMCORE_SHARED to run this test")
    model, (text, found) = exported.models[name], exported.found(name)
    batch = model.prepare([np.asarray(Image.open(exported.picture))], prompt=QUESTION)
    ours = continued(model, batch)
    torch.testing.assert_close(found["pixels"], batch.images, rtol=0, atol=0)
    assert len(found["prompt"]) == batch.sequences.shape[1]
    assert found["ids"].tolist() == ours.ids[0]
    assert ours.logits is not None
    words = ours.logits.shape[-1]
    torch.testing.assert_close(found["logits"][:, :words], ours.logits[0], rtol=0, atol=1e-5)
    (prediction,) = model.predict(batch)
    assert prediction.text is not None
    assert text
    assert prediction.text.startswith(text)


def continued(model: Visper, batch: ConversationBatch) -> Generated:
    """The model's own answer with its logits."""
    with torch.no_grad():
        embeds = model.language.embed(batch.sequences, model.spliced(batch))
    return generate(
        model.language,
        embeds,
        batch.sequences,
        max_new_tokens=NEW_TOKENS,
        stop=Stop(ids=tuple(end_ids(model.config.language, template(model.config.template), model.tokenizer))),
        forbid=range(len(model.tokenizer), model.language.embed_tokens.num_embeddings),
        keep_logits=True,
    )


def test_rows_that_are_no_word_are_never_generated(exported):
    for name, model in exported.models.items():
        folder = exported.root / name
        settings = json.loads((folder / "config.json").read_text())
        rows = settings["text_config"]["vocab_size"]
        suppressed = json.loads((folder / "generation_config.json").read_text())["suppress_tokens"]
        placeholders = 1 + sum(count for _, count in model.config.task_tokens)
        no_words = {settings["image_token_index"], *range(len(model.tokenizer), rows)}
        assert no_words <= {*suppressed}, name
        assert placeholders <= len(suppressed) <= placeholders + rows - len(model.tokenizer), name
        assert rows == len(read_tensors(folder)["language_model.lm_head.weight"])


def test_phi3_keeps_its_rows_and_its_window(exported):
    if "phi3" not in exported.models:
        pytest.skip("no tokenizer of Phi-3 here; set MMCORE_SHARED to run this test")
    settings = json.loads((exported.root / "phi3" / "config.json").read_text())["text_config"]
    assert (settings["vocab_size"], settings["sliding_window"]) == (640, 2048)


def test_adapters_are_folded_in_and_the_model_keeps_them(tmp_path):
    model = visper(CONFIGS["tiny"])
    stage = stages("tiny")[1].replace(lora=Lora(rank=2, alpha=4.0, targets=("*.q_proj",)))
    add_lora(model, stage.lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    before = model.language.model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    core_export.export(opened(model, stage), "hf", tmp_path / "hf")
    written = read_tensors(tmp_path / "hf")
    layer = model.language.model.layers[0].self_attn.q_proj
    assert torch.equal(layer.base_layer.weight, before)
    update = layer.get_delta_weight("default")
    folded = written["language_model.model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(folded, before + update)
    assert not [name for name in written if "lora" in name]


def test_a_folder_of_another_architecture_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}')
    with pytest.raises(WeightsError, match="holds a MambaForCausalLM"):
        from_pretrained(tmp_path)


def test_half_precision_is_written_when_asked(tmp_path):
    core_export.export(opened(visper(CONFIGS["tiny"])), "hf", tmp_path / "hf", precision="bf16")
    assert {t.dtype for t in read_tensors(tmp_path / "hf").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_large_weights_are_sharded_with_an_index(tmp_path):
    core_export.export(opened(visper(CONFIGS["tiny"])), "hf", tmp_path / "hf", max_shard_bytes=300_000)
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    from transformers import LlavaForConditionalGeneration

    _, trouble = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(trouble.values())


def test_the_card_shows_how_to_use_the_folder(tmp_path):
    core_export.export(opened(visper(CONFIGS["tiny"])), "hf", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "LlavaForConditionalGeneration" in card
    assert 'backend="pil"' in card
    assert "transformers' names" in card


# The published layout


def test_the_upstream_folder_describes_the_model_it_holds(tmp_path):
    model = visper(VARIANTS["tiny"])
    core_export.export(opened(model, stages("tiny")[0]), "upstream", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "ola_llama"
    assert config["aux_mode"] == "gen-depth-seg"
    assert config["num_task_tokens"] == 8
    again = from_published(config, tower=model.config.tower, depth_decoder=model.config.depth_decoder)
    assert [task.layers for task in again.tasks] == [task.layers for task in model.config.tasks]
    other = Visper(again)
    state, _ = other.published().to_ours(read_tensors(tmp_path / "out"), other.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert load_tokenizer(tmp_path / "out").get_vocab() == model.tokenizer.get_vocab()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [2, 5]


def test_an_unchanged_tokenizer_is_copied_as_it_is(shared, tmp_path):
    source = shared / "goldens/visper/data_conversations/tokenizer_phi3"
    config = PHI3_VIT.replace(tokenizer=str(source))
    export.export_upstream_files(config, load_tokenizer(source), tmp_path)
    for path in source.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] == 2047


def test_a_tokenizer_that_grew_is_written_anew(shared, tmp_path):
    source = shared / "goldens/visper/data_conversations/tokenizer_llama3"
    tokenizer = load_tokenizer(source)  # it had no padding token
    export.export_upstream_files(VARIANTS["llama3-vit"], tokenizer, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


# What transformers has no place for


def test_a_convnext_is_written_in_our_own_format_and_opens_again(tmp_path):
    pytest.importorskip("timm", reason="the ConvNeXt tower needs timm")
    tower = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24), "image_size": 96}
    changes = {"predictors": False, "image_aspect": "pad", "tower": tower}
    stage = stages("phi3-convnext")[1].replace(
        model=changes
        | {
            "language": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 20,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "vocab_size": 40,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
            "num_task_tokens": 8,
        },
        gradient_checkpointing=False,
    )
    from mmcore.runs.build import build_model

    subject = opened(nn.Identity(), stage, "phi3-convnext")
    model: Any = build_model(subject.family, subject.settings).eval()
    model.tokenizer = make_tokenizer(WORDS)
    core_export.export(opened(model, stage, "phi3-convnext"), "hf", tmp_path / "out")
    again = from_pretrained(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert "mmcore's names" in (tmp_path / "out" / "README.md").read_text()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    config = CONFIGS["tiny"].replace(language={"vocab_size": 500})
    with pytest.raises(
        WeightsError, match=f"the tokenizer has {len(make_tokenizer(WORDS))} tokens, the model 500 rows"
    ):
        core_export.export(opened(visper(config)), "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


# After training


def finished(model: nn.Module, stage: Any, run_dir: Path) -> Any:
    settings = Settings(plugin="visper", variant="tiny", stage=stage, data="data")
    return SimpleNamespace(settings=settings, run_dir=run_dir, model=model, step=600, metrics={})


def test_a_run_that_answers_questions_is_exported_once_per_result(tmp_path, capfd):
    run = finished(visper(CONFIGS["tiny"]), stages("tiny")[1], tmp_path)
    export.after_training(run)
    assert (tmp_path / "exports" / "hf" / "chat_template.jinja").is_file()
    assert str(tmp_path / "exports" / "hf") in capfd.readouterr().err
    export.after_training(run)
    assert (tmp_path / "exports" / "hf-step-00000600" / "config.json").is_file()


def test_captions_alone_are_not_exported_and_it_is_said(tmp_path, capfd):
    export.after_training(finished(visper(VARIANTS["tiny"]), stages("tiny")[0], tmp_path))
    assert not (tmp_path / "exports").exists()
    assert "not exported after stage pt" in capfd.readouterr().err


def test_an_export_that_fails_does_not_fail_the_run(tmp_path, capfd):
    config = CONFIGS["tiny"].replace(language={"vocab_size": 500})
    export.after_training(finished(visper(config), stages("tiny")[1], tmp_path))
    said = capfd.readouterr().err
    assert "the run is complete" in said
    assert f"{len(make_tokenizer(WORDS))} tokens" in said


def test_a_clip_tower_is_what_transformers_has():
    assert isinstance(VARIANTS["tiny"].tower, ClipTower)
    told = {name: expressible(config.language, config.tower) for name, config in VARIANTS.items()}
    assert told == {name: "convnext" not in name for name in VARIANTS}


def test_an_export_is_readable_by_everybody_and_its_lines_run(tmp_path, picture, monkeypatch, capsys):
    model = visper(VARIANTS["tiny"])
    core_export.export(opened(model, stages("tiny")[0]), "upstream", tmp_path / "upstream")
    monkeypatch.setattr(type(model), "export_hf", lambda *_: None)  # as a family without a shape of transformers
    core_export.export(opened(model, stages("tiny")[0]), "hf", tmp_path / "hf", licence="apache-2.0")
    for path in (*tmp_path.glob("*"), *tmp_path.rglob("*/*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    card = (tmp_path / "hf" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    shutil.copy(picture, tmp_path / "hf" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "hf")
    monkeypatch.setattr(llava_answer, "MAX_NEW_TOKENS", 3)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out
