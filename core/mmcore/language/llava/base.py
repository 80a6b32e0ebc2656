"""A base model by folder: `model.language=DIR` and `model.vision=DIR` of a recipe, turned into plain settings.

    model.language   -> language (every size), tokenizer, template
    model.vision     -> tower (every size, mean and deviation of its pictures)

The folder may be one of transformers' language models or towers, or a whole `LlavaForConditionalGeneration`, of which
the part is taken.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcore.base import hub
from mmcore.base.jsonfile import read_json
from mmcore.errors import MissingDataError, WeightsError
from mmcore.language.conversation_templates import template
from mmcore.language.folder import read_language, template_for
from mmcore.language.tokens import load_tokenizer
from mmcore.vision.folder import read_tower

LANGUAGE, VISION = "language", "vision"
FILLS: Mapping[str, str] = {LANGUAGE: "language", VISION: "tower"}
"""Part of the recipe's `model` -> part of the model that its folder fills."""
CONFIG = "config.json"


def read_base(part: str, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` entries that a folder stands for; those that are given stay out.

    Args:
        part: `language` or `vision`.
        source: a folder, or `hf://OWNER/NAME`.
        given: entries that a user chose: `tokenizer` and `template`.

    Raises:
        MissingDataError: there is no such folder, or it has no `config.json`.
        RecipeError: its architecture is not known; with those that are.
        WeightsError: its configuration cannot be read.
    """
    entries, folder = read_config(source, f"model.{part}")
    if part == VISION:
        return {"tower": read_tower(entries, folder, _name(source))}
    language = read_language(entries, folder / CONFIG)
    named = str(given.get("tokenizer") or _name(source))
    tokenizer = load_tokenizer(named)
    chosen = str(given.get("template") or template_for(language["model_type"], tokenizer))
    template(chosen)  # refuses a name that does not exist
    language["vocab_size"] = max(language["vocab_size"], len(tokenizer))
    if tokenizer.pad_token_id is not None and language.get("pad_token_id") is None:
        language["pad_token_id"] = int(tokenizer.pad_token_id)
    return {"language": language, "tokenizer": named, "template": chosen}


def read_config(source: str, where: str) -> tuple[dict[str, Any], Path]:
    """`config.json` of a folder or of the Hub, and the folder it lies in.

    Raises:
        MissingDataError: there is none.
        WeightsError: it is no JSON object.
    """
    if hub.is_hub(source):
        path = hub.fetch(f"{source.rstrip('/')}/{CONFIG}", do="check the name, or give a folder of this machine")
        _fetch_beside(source)
    else:
        path = Path(source).expanduser() / CONFIG
    if not path.is_file():
        what = f"no {CONFIG} here" if path.parent.is_dir() else f"there is no folder {path.parent}"
        raise MissingDataError(what, where=where, do="give a folder that transformers wrote, or hf://OWNER/NAME")
    try:
        return read_json(path), path.parent
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read: {error}", where=path) from None


def _fetch_beside(source: str) -> None:
    """The picture processor's settings, which not every repository has."""
    with suppress(MissingDataError):
        hub.fetch(f"{source.rstrip('/')}/preprocessor_config.json", do="")


def absolute(source: str) -> str:
    """A place that means the same from every folder."""
    return source if hub.is_hub(source) else str(Path(source).expanduser().absolute())


def is_llava(folder: Path) -> bool:
    """Whether a folder holds a `LlavaForConditionalGeneration` of transformers."""
    try:
        entries = read_json(folder.expanduser() / CONFIG)
    except (OSError, ValueError):
        return False
    return entries.get("model_type") == "llava" and "text_config" in entries


def _name(source: str) -> str:
    """What tokenizers and towers are found by: an absolute folder, or a name on the Hub."""
    return absolute(source).removeprefix(hub.PREFIX).rstrip("/")
