"""Sizes and switches of GLaMM, for the published size and for laptops."""

from dataclasses import dataclass
from typing import ClassVar

from mmcore import Stage
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.sizes import LLAMA2_7B
from mmcore.vision.clip_vit import ClipTower


@dataclass(frozen=True, kw_only=True, slots=True)
class GlammConfig(LlavaConfig):
    """Sizes of GLaMM; whatever `stage.model` may change is a field of it."""

    FAMILY: ClassVar[str] = "GLaMM"


TINY_LANGUAGE = {
    **LLAMA2_7B,
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_TOWER = ClipTower(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, image_size=48, patch_size=16, name="tiny"
)
VARIANTS = {
    "7b": GlammConfig(language=LLAMA2_7B, tokenizer="lmsys/vicuna-7b-v1.5", template="llava_v1"),
    "tiny": GlammConfig(language=TINY_LANGUAGE, tower=TINY_TOWER, tokenizer="tiny", template="llava_llama_3"),
}


def config_of(stage: Stage, variant: str) -> GlammConfig:
    """The variant with what the stage changes."""
    length = {} if stage.max_length is None else {"max_length": stage.max_length}
    return VARIANTS[variant].replace(**{**length, **stage.model})
