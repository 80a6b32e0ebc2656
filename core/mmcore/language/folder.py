"""The language model of a folder that transformers wrote: its sizes, its tokenizer and how it is spoken to.

Read from `config.json`, of a language model alone or of the part of a `LlavaForConditionalGeneration`. What comes out
is plain and whole, so that a run's `config.yaml` says every number and the folder is needed for its weights only.
"""

from collections.abc import Mapping
from typing import Any

from mmcore.errors import RecipeError, suggest
from mmcore.language.models import KINDS, language_part, make_config, modern_config

_NO_SIZES = (
    "_name_or_path",
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "pruned_heads",
    "return_dict",
    "rope_parameters",
    "transformers_version",
    "use_cache",
)
"""Entries of a configuration that describe no model; rotary settings are written in the older, wider known spelling."""


def read_language(entries: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The recipe's `model.language`: every entry that describes the model, defaults written out.

    Args:
        entries: `config.json` of a language model, or of a LLaVA, of which the part is taken.
        where: for messages.

    Raises:
        RecipeError: the architecture is not known; with those that are.
    """
    part = language_part(entries)
    kind = str(part.get("model_type"))
    if kind not in KINDS:
        raise RecipeError(
            f"{kind!r} is no language model that mmcore knows",
            where=where,
            known=KINDS,
            do=suggest(kind, KINDS, "give the folder of one of these"),
        )
    given = modern_config(part)
    config = make_config({name: value for name, value in given.items() if name != "architectures"})
    said = config.to_dict()
    sizes = {name: value for name, value in said.items() if name not in _NO_SIZES and value is not None}
    if "layer_types" not in given:  # follows from the others
        sizes.pop("layer_types", None)
    return _tuples({"model_type": kind, **sizes, **_rope(said.get("rope_parameters"))})


def _tuples(value: Any) -> Any:
    """As recipes hold lists."""
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _rope(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Rotary settings as `rope_theta` and, where positions are stretched, `rope_scaling`."""
    rest = dict(parameters or {})
    theta = rest.pop("rope_theta", None)
    result: dict[str, Any] = {} if theta is None else {"rope_theta": float(theta)}
    if rest.get("rope_type", "default") != "default":
        result["rope_scaling"] = rest
    return result


def template_for(kind: str, tokenizer: Any) -> str:
    """The conversation template that a language model was taught by its makers, as far as its words tell.

    Args:
        kind: its `model_type`.
        tokenizer: tells Llama 3 from its forerunners, which answer to Vicuna's.
    """
    words = tokenizer.get_vocab()
    if kind == "llama":
        if "<|eot_id|>" in words:
            return "llava_llama_3"
        return "qwen_chatml" if {"<|im_start|>", "<|im_end|>"} <= words.keys() else "vicuna_v1"
    return {"phi3": "llava_phi_3", "gemma2": "gemma_instruct"}.get(kind, "qwen_chatml")
