"""A folder of transformers' `LlavaForConditionalGeneration` as settings of ours, exports of our own included.

Sizes, tokenizer and towers are read as of any base model (`base`). How it is spoken to is found out: the folder's own
chat template is asked to write some conversations, and of the known templates the one is taken that gives the same ids.
What it writes between an image and the text (the constant vectors of an export) is written behind every image then.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.base.jsonfile import read_json
from mmcore.errors import WeightsError
from mmcore.language.chat_template import PROBES, chat_ids, to_messages
from mmcore.language.conversation import MARKER, Template
from mmcore.language.conversation_templates import TEMPLATES, template
from mmcore.language.folder import template_for
from mmcore.language.llava.base import LANGUAGE, VISION, read_base, read_config
from mmcore.language.sequence import IMAGE, Turn
from mmcore.language.tokens import load_tokenizer, tokenize

PROCESSOR = "preprocessor_config.json"
_OPEN = (PROBES[-1], (Turn("user", "Where?"), Turn("assistant", "")))
"""Conversations that end where an answer begins."""


def read_llava(source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` entries of a `LlavaConfig` that computes what the folder's model does.

    Args:
        source: the folder.
        given: entries that a user chose: `tokenizer` and `template`.

    Raises:
        MissingDataError: it is not there.
        RecipeError: an architecture is not known; with those that are.
        WeightsError: it computes something that ours does not.
    """
    entries, folder = read_config(source, "config.json")
    _check(entries, folder)
    result = {**read_base(LANGUAGE, source, given), **read_base(VISION, source, given)}
    result |= {"projector": "mlp2x_gelu", "image_aspect": _aspect(folder), "suppressed": _suppressed(folder)}
    tokenizer = load_tokenizer(result["tokenizer"])
    written = _chat_template(folder)
    if written is None or "template" in given:
        return result
    image = tokenizer.convert_ids_to_tokens(int(entries.get("image_token_index", 32000)))
    guess = template_for(result["language"]["model_type"], tokenizer)
    name, after = spoken_as(written, tokenizer, image, guess, folder)
    return result | {"template": name, "after_image_text": after}


def _check(entries: Mapping[str, Any], folder: Path) -> None:
    for name, value, wanted in (
        ("projector_hidden_act", entries.get("projector_hidden_act", "gelu"), "gelu"),
        ("multimodal_projector_bias", entries.get("multimodal_projector_bias", True), True),
    ):
        if value != wanted:
            raise WeightsError(f"{name} {value!r} is not supported", where=folder / "config.json", known=[wanted])


def _aspect(folder: Path) -> str:
    """How its pictures become square."""
    path = folder / PROCESSOR
    try:
        said = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read: {error}", where=path) from None
    if said.get("do_pad"):
        return "pad"
    return "square" if said.get("do_center_crop", "shortest_edge" in (said.get("size") or {})) else "squash"


def _suppressed(folder: Path) -> tuple[int, ...]:
    """Ids that its generation never gives."""
    try:
        listed = read_json(folder / "generation_config.json").get("suppress_tokens")
    except (OSError, ValueError):
        return ()
    return tuple(int(index) for index in listed or ())


def _chat_template(folder: Path) -> str | None:
    """The folder's chat template, in any of the three places where it may be."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        try:
            written = read_json(folder / name).get("chat_template")
        except (OSError, ValueError):
            continue
        if isinstance(written, str):
            return written
    return None


def spoken_as(written: str, tokenizer: Any, image: str, guess: str, where: object) -> tuple[str, str]:
    """The template that writes prompts as a chat template does, and what it writes behind every image.

    Args:
        written: the chat template, Jinja.
        tokenizer: of the folder.
        image: the image's placeholder.
        guess: taken where none fits, with a line about it.
        where: for that line.

    Returns:
        The template's name and the text.
    """
    image_id, afters = tokenizer.convert_tokens_to_ids(image), _between(written, tokenizer, image)

    def agree(one: Template, after: str, probes: Sequence[tuple[Turn, ...]]) -> bool:
        return all(_ids(turns, one, after, tokenizer, image_id) == _chat(turns, written, tokenizer) for turns in probes)

    fits = [
        (one, after) for one in (template(guess), *TEMPLATES.values()) for after in afters if agree(one, after, _OPEN)
    ]
    whole = (fit for fit in fits if agree(*fit, PROBES))
    if (found := next(whole, None) or (fits[0] if fits else None)) is not None:
        return found[0].name, found[1]
    print(
        f"the chat template of {where} is none that mmcore knows: conversations are written by the template {guess};"
        " --set model.template=NAME chooses another in training",
        file=sys.stderr,
    )
    return guess, ""


def _chat(turns: Sequence[Turn], written: str, tokenizer: Any) -> list[int] | None:
    try:
        return chat_ids(turns, written, tokenizer)
    except Exception:  # whatever a template raises for what it does not take
        return None


def _between(written: str, tokenizer: Any, image: str) -> list[str]:
    """What may stand between an image and a line break, longest first; nothing where the template cannot be asked."""
    try:
        text = tokenizer.apply_chat_template(
            to_messages(_OPEN[0][:1]), chat_template=written, tokenize=False, add_generation_prompt=True
        )
    except Exception:
        return [""]
    between = text.partition(image)[2].partition(_OPEN[0][0].text.removeprefix(MARKER).strip())[0]
    return [between.removesuffix("\n")] if between.endswith("\n") else [""]


def _ids(turns: Sequence[Turn], one: Template, after: str, tokenizer: Any, image_id: int) -> list[int] | None:
    try:
        text = dataclasses.replace(one, after_image=after).written(turns)
    except Exception:
        return None
    return [image_id if index == IMAGE else index for index in tokenize(text, tokenizer).tolist()]
