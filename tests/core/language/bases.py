"""Small folders as transformers writes them: language models, towers and whole LLaVAs with random weights."""

from pathlib import Path
from typing import Any

import torch
from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.language.tokenizer_files import write_json
from tokenizers import processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, LlavaForConditionalGeneration

CHATML = ("<|im_start|>", "<|im_end|>")
WORDS = {"phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "gemma2": ("<start_of_turn>", "<end_of_turn>")}
SIZES = {
    "vocab_size": 1100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 5e5},
    "phi3": {"sliding_window": 64, "original_max_position_embeddings": 512},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "qwen2": {"tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {"head_dim": 16},
}
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip


def language_config(kind: str, **changes: Any) -> Any:
    return AutoConfig.for_model(kind, **{**SIZES, **EXTRA[kind], **changes})


def write_language(folder: Path, kind: str, words: tuple[str, ...] | None = None, **changes: Any) -> Any:
    """A language model with its tokenizer, and the model itself."""
    torch.manual_seed(1)
    # With its fused attention transformers 5.17 leaves out the cap on Gemma 2's scores.
    model = AutoModelForCausalLM.from_config(language_config(kind, **changes), attn_implementation="eager").eval()
    model.save_pretrained(folder)
    write_words(folder, (CHATML if kind.startswith("qwen") else WORDS.get(kind, ())) if words is None else words)
    return model


def write_words(folder: Path, words: tuple[str, ...]) -> None:
    made = write_tokenizer(folder.parent / "made", "tiny", "a red cup on the table What is it", 1)
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.add_special_tokens({"extra_special_tokens": list(words)}, replace_extra_special_tokens=False)
    if CHATML[0] in words:  # Qwen's puts nothing before a text
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save_pretrained(folder)


def write_tower(folder: Path, kind: str = "siglip_vision_model", **changes: Any) -> Any:
    """A vision tower with its picture processor, and the tower itself."""
    torch.manual_seed(2)
    tower = AutoModel.from_config(AutoConfig.for_model(kind, **{**VISION, **changes})).eval()
    tower.save_pretrained(folder)
    side = tower.config.image_size
    said = {"size": {"height": side, "width": side}, "resample": 2}
    write_json(
        folder / "preprocessor_config.json", said | {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    )
    return tower


def write_llava(folder: Path, kind: str = "llama", tower: str = "clip_vision_model", **changes: Any) -> Any:
    """A whole LLaVA as transformers saves it."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "llava",
        text_config=language_config(kind).to_dict(),
        vision_config=AutoConfig.for_model(tower, **VISION).to_dict(),
        **{"vision_feature_select_strategy": "full" if tower.startswith("siglip") else "default", **changes},
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return model
