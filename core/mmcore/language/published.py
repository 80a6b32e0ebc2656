"""Published language models: names of their parameters, words that a family adds, numbers that shapes do not show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.base.terminal import tell
from mmcore.errors import WeightsError
from mmcore.language import models
from mmcore.weights.maps import Rule

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_NUMBERS = (
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "sliding_window",
    "hidden_act",
    "rope_theta",
    "rope_type",
)
"""Numbers of a language model that the shapes of its weights do not show."""
PADDED_ROWS = 256
"""Most rows past the vocabulary that are taken for padding."""


def language_rules(ours: str = "language.") -> list[Rule]:
    """Names in files of causal language models, and ours; later than those of other parts below `model.`."""
    return [Rule("model.*", f"{ours}model.*"), Rule("lm_head.weight", f"{ours}lm_head.weight")]


def with_all_words(tensors: Mapping[str, Tensor], words: int) -> dict[str, Tensor]:
    """A language model's tensors with an output layer of its own and `words` rows in both matrices.

    New rows are the mean of the old ones, as LLaVA's scripts make the row of a padding token. Rows past the
    vocabulary, with which trainers fill it up to a multiple of 64 or so, stand for no word and are cut.
    """
    result = dict(tensors)
    if EMBEDDING in result:
        result.setdefault(OUTPUT, result[EMBEDDING])
    for name in (EMBEDDING, OUTPUT):
        if name in result and len(result[name]) < words:
            old = result[name]
            mean = old.float().mean(0, keepdim=True).to(old.dtype)
            result[name] = torch.cat([old, mean.expand(words - len(old), -1)])
        elif name in result and words < len(result[name]) <= words + PADDED_ROWS:
            tell(f"{name}: {len(result[name]) - words} rows past the vocabulary of {words} are left out")
            result[name] = result[name][:words]
    return result


def check_numbers(path: str | Path, language: models.LanguageModel) -> None:
    """Refuse weights whose `config.json` says numbers that shapes do not show; without one nothing can be said.

    Args:
        path: a published folder, or a file in it.
        language: what is to be filled.

    Raises:
        WeightsError: names the entry and both values.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / "config.json").is_file():
        return
    entries = models.read_config(folder)
    kind = _kind(str(entries.get("model_type")), language)
    if entries.get("model_type") != kind:  # a family's own files: their numbers are not translated yet
        entries = models.modern_config({**entries, "model_type": kind})
    theirs = models.make_config({name: value for name, value in entries.items() if name != "architectures"})
    for name in _NUMBERS:
        here, there = _number(language.config, name), _number(theirs, name)
        if here != there:
            raise WeightsError(
                f"{name} is {there} in the checkpoint and {here} in this model",
                where=folder / "config.json",
                do=f"check the variant, or set model.language.{name}",
            )


def _kind(model_type: str, language: models.LanguageModel) -> str:
    """The language model behind a family's own model type, such as `llava_llama`; ours where it does not say."""
    return next((kind for kind in models.KINDS if kind in model_type.lower()), str(language.config.model_type))


def _number(config: Any, name: str) -> Any:
    """An entry of a transformers configuration, those of the rotary embedding included."""
    if name.startswith("rope_"):
        return (getattr(config, "rope_parameters", None) or {}).get(name)
    return getattr(config, name, None)
