"""Folders of transformers' LLaVA, ours and others': they are read, asked, evaluated and written with equal logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore import load
from mmcore.data.demo.tiny_tokenizer import make_tokenizer
from mmcore.errors import WeightsError
from mmcore.language.conversation_templates import template
from mmcore.language.generate import generate
from mmcore.runs.opened import open_model
from mmcore.runs.settings import Request, settle
from mmcore_visper.config import VARIANTS
from mmcore_visper.export import export_hf
from mmcore_visper.model import Visper
from tokenizers import processors
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

TEXT = {
    "vocab_size": 1100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": 2,
    "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip
CHAT = (
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}{% if message.content is string %}"
    "{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}{{ '<image>\n' }}{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def words() -> Any:
    """A tokenizer with ChatML's tokens and an image's, that puts nothing before a text."""
    tokenizer = make_tokenizer("a red cup on the table What is it Where")
    names = ["<|im_start|>", "<|im_end|>", "<image>"]
    tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    return tokenizer


def write_llava(folder: Path, kind: str = "qwen2", tower: str = "siglip_vision_model", **changes: Any) -> Any:
    """A folder as somebody saved it with transformers, and the model."""
    torch.manual_seed(0)
    tokenizer = words()
    rows = "full" if tower.startswith("siglip") else "default"
    config = AutoConfig.for_model(
        "llava",
        text_config=AutoConfig.for_model(kind, **TEXT).to_dict(),
        vision_config=AutoConfig.for_model(tower, **VISION).to_dict(),
        **{
            "vision_feature_select_strategy": rows,
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            **changes,
        },
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    for name, content in {
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor" if rows == "full" else "CLIPImageProcessor",
            "do_resize": True, "size": side if rows == "full" else {"shortest_edge": 32}, "resample": 3,
            "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.5] * 3, "image_std": [0.4] * 3,
            **({} if rows == "full" else {"do_center_crop": True, "crop_size": side}),
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": 8,
            "num_additional_image_tokens": int(rows == "default"), "vision_feature_select_strategy": rows,
        },
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(CHAT)
    return model


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)


def asked_elsewhere(folder: Path, question: str) -> tuple[Any, torch.Tensor]:
    """What plain transformers makes of a question, and its logits at every position."""
    from PIL import Image

    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    content = [{"type": "image", "image": Image.fromarray(picture())}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        return inputs, LlavaForConditionalGeneration.from_pretrained(folder).eval()(**inputs).logits[0]


def asked_here(model: Any, question: str) -> torch.Tensor:
    """Our logits of the first word of the answer."""
    with torch.no_grad():
        batch = model.prepare([picture()], prompt=question)
        embeds = model.language.embed(batch.sequences, model.spliced(batch))
        return generate(model.language, embeds, batch.sequences, max_new_tokens=1, keep_logits=True).logits[0, 0]


@pytest.mark.parametrize(("kind", "tower"), [("qwen2", "siglip_vision_model"), ("llama", "clip_vision_model")])
def test_somebodys_folder_answers_as_in_transformers(kind, tower, tmp_path):
    write_llava(tmp_path / "theirs", kind, tower)
    opened = open_model(tmp_path / "theirs")
    model: Any = opened.model
    assert model.config.template == "qwen_chatml"
    inputs, wanted = asked_elsewhere(tmp_path / "theirs", "What is it?")
    batch = model.prepare([picture()], prompt="What is it?")
    torch.testing.assert_close(batch.images, inputs["pixel_values"], rtol=0, atol=1e-6)
    torch.testing.assert_close(asked_here(model, "What is it?"), wanted[-1], rtol=1e-4, atol=1e-4)
    assert isinstance(load(tmp_path / "theirs", device="cpu").chat(picture(), "What is it?"), str)


@pytest.mark.parametrize("tasks", [True, False])
def test_our_own_export_answers_as_the_run_did(tasks, tmp_path):
    torch.manual_seed(0)
    config = VARIANTS["tiny"].replace(predictors=False, depth_decoder=None, image_aspect="pad")
    config = config if tasks else config.replace(tasks=(), num_task_tokens=0)
    run = Visper(config).eval()
    state = run.published().to_published({name: tensor.detach() for name, tensor in run.state_dict().items()})
    export_hf(state, config, run.tokenizer, tmp_path)
    again: Any = open_model(tmp_path).model
    assert again.config.template == config.template
    assert bool(again.config.after_image_text) == tasks
    question = "What color is the circle?"
    rows = len(run.tokenizer)
    torch.testing.assert_close(
        asked_here(again, question)[:rows], asked_here(run, question)[:rows], rtol=1e-4, atol=1e-4
    )
    said = [model.predict(model.prepare([picture()], prompt=question))[0].text for model in (run, again)]
    # Later on the untrained run says a token that the export keeps for pictures.
    assert said[0][:100] == said[1][:100]
    export_hf(  # and once more: a folder of a folder
        again.published().to_published({name: t.detach() for name, t in again.state_dict().items()}),
        again.config, again.tokenizer, tmp_path / "again",
    )  # fmt: skip
    third: Any = open_model(tmp_path / "again").model
    torch.testing.assert_close(
        asked_here(third, question)[:rows], asked_here(run, question)[:rows], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "phi3"])
def test_other_language_models_and_siglip_are_written_for_plain_transformers(kind, tmp_path):
    write_llava(tmp_path / "theirs", kind)
    model: Any = open_model(tmp_path / "theirs").model
    state = model.published().to_published({name: tensor.detach() for name, tensor in model.state_dict().items()})
    assert export_hf(state, model.config, model.tokenizer, tmp_path / "ours")
    _, wanted = asked_elsewhere(tmp_path / "ours", "What is it?")
    torch.testing.assert_close(asked_here(model, "What is it?"), wanted[-1][: TEXT["vocab_size"]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("projector", ["linear", "mlp3x_gelu", "conv_reduce"])
def test_a_projector_that_transformers_lacks_is_told_and_not_left_out(projector, tmp_path, capsys):
    model = Visper(VARIANTS["tiny"].replace(projector=projector))
    assert model.export_hf(tmp_path, dict(model.state_dict()), 1 << 30) is None
    assert not any(tmp_path.iterdir())
    assert f"no LLaVA with this projector {projector}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported"),
        ({"vision_feature_layer": [-1, -2]}, "reads several states at once"),
        ({"vision_feature_select_strategy": "default"}, "leaves out SigLIP's first patch"),
    ],
)
def test_what_ours_does_not_compute_is_refused(changes, said, tmp_path):
    write_llava(tmp_path, **changes)
    with pytest.raises(WeightsError, match=said):
        open_model(tmp_path)


def test_a_chat_template_that_is_not_known_is_told(tmp_path, capsys):
    write_llava(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for message in messages %}{{ message.role }}{% endfor %}")
    assert open_model(tmp_path).model.config.template == "qwen_chatml"  # type: ignore[attr-defined]
    assert "is none that mmcore knows" in capsys.readouterr().err


def test_a_start_from_a_folder_brings_its_sizes(tmp_path):
    write_llava(tmp_path / "theirs")
    _, settings, _ = settle(
        Request(plugin="visper", stage="ift", variant="tiny", data=tmp_path, init=(str(tmp_path / "theirs"),))
    )
    model = settings.stage.model
    assert (model["language"]["model_type"], model["tower"]["kind"], model["template"]) == (
        "qwen2",
        "siglip",
        "qwen_chatml",
    )
    assert template(model["template"])
    assert AutoTokenizer.from_pretrained(model["tokenizer"])
