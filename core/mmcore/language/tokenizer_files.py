"""Where a model's tokenizer lies, and how it is kept beside weights so that others read it as training did."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.language.conversation import Template
from mmcore.language.tokens import load_tokenizer

FOLDER = "tokenizer"
"""Where a run or an export keeps its own copy."""
ORIGINAL_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""Copied as they are when training added no token: original code that asks for a slow class reads the first of them."""


def open_tokenizer(
    name: str,
    template: Template | None = None,
    places: Sequence[Path] = (),
    made: Mapping[str, Callable[[], Path]] | None = None,
    **options: Any,
) -> Any:
    """The tokenizer of a name, with every token of the conversation template.

    Args:
        name: on the Hub, a folder, or one of `made`.
        template: says what it must know.
        places: folders to look into before the Hub is asked, in order; of each also `tokenizer` and `weights/NAME`.
        made: name -> what writes a tokenizer's folder, for variants that have none published.
        options: further ones of `load_tokenizer`.

    Raises:
        RecipeError: it lacks tokens of the template.
        WeightsError: it cannot be read.
    """
    return load_tokenizer(find_tokenizer(name, places, made), template=template, **options)


def find_tokenizer(name: str, places: Sequence[Path] = (), made: Mapping[str, Callable[[], Path]] | None = None) -> str:
    """The folder that holds a tokenizer, or its name on the Hub when none does; see `open_tokenizer`."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    for place in places:
        for folder in (place / FOLDER, place / "weights" / last, place / name, place):
            if any(folder.glob("tokenizer*.*")):
                return str(folder)
    return str(made[name]()) if made and name in made else name


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer's files, such that transformers 4 and 5 read `tokenizer.json` as it stands.

    A class of the family's own (`LlamaTokenizer`) would rebuild the rules for blanks that were set for training.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    if "extra_special_tokens" in settings:
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write_merges_as_text(folder / "tokenizer.json")


def _write_merges_as_text(path: Path) -> None:
    """`a b` instead of `[a, b]`: the original code's tokenizers (0.19) know no other form, and today's read both."""
    content = json.loads(path.read_text())
    merges = content["model"].get("merges", [])
    if merges and not any(isinstance(pair, str) or " " in "".join(pair) for pair in merges):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def copy_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The files that a tokenizer was read from, or new ones when training added tokens to it."""
    source = Path(str(tokenizer.name_or_path))
    files = [path for name in ORIGINAL_FILES if (path := source / name).is_file()]
    if not files or _has_grown(tokenizer, source):
        save_tokenizer(tokenizer, folder)
        return
    for path in files:
        shutil.copyfile(path, folder / path.name)


def _has_grown(tokenizer: Any, source: Path) -> bool:
    from transformers import AutoTokenizer

    opened = AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    return len(opened) != len(tokenizer)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file as transformers writes them, two blanks deep and with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")
