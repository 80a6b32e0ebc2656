"""Where a model's tokenizer lies, and how it is kept beside weights so that others read it as training did."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.language.conversation import Template
from mmcore.language.tokens import load_tokenizer, open_auto

FOLDER = "tokenizer"
"""Where a run or an export keeps its own copy."""
ORIGINAL_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
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
    if Path(name).is_absolute() and not any(any((place / FOLDER).glob("tokenizer*.*")) for place in places):
        return name  # a folder that a user named; a run's own copy comes before it
    for place in places:
        for folder in (place / FOLDER, place / "weights" / last, place / name, place):
            if any(folder.glob("tokenizer*.*")):
                return str(folder)
    return str(made[name]()) if made and name in made else name


def keep_tokenizer(tokenizer: Any, folder: Path) -> None:
    """A run's own copy: the files it was read from as they are, so that an export can hand them on, or new ones.

    Args:
        tokenizer: of the run; one that got tokens, or whose files are gone, is written anew.
        folder: is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _copy_original(tokenizer, folder):
        tokenizer.save_pretrained(folder)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer's files, such that transformers 4 and 5 read `tokenizer.json` as it stands.

    A class of the family's own (`LlamaTokenizer`) would rebuild the rules for blanks that were set for training.
    """
    tokenizer.save_pretrained(folder)
    _as_plain_class(folder / "tokenizer_config.json")
    _write_merges_as_text(folder / "tokenizer.json")


def copy_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The files that a tokenizer was read from, or new ones when training added tokens to it.

    Files that version 5 of transformers wrote, as a run folder may hold, are repaired for version 4: it has no class
    `TokenizersBackend`, and its tokenizers know merges as text only.
    """
    if not _copy_original(tokenizer, folder):
        save_tokenizer(tokenizer, folder)
        return
    path = folder / "tokenizer_config.json"
    if path.is_file() and json.loads(path.read_text()).get("tokenizer_class") in _UNKNOWN_BEFORE_5:
        _as_plain_class(path)
    if (path := folder / "tokenizer.json").is_file():
        _write_merges_as_text(path)


def _copy_original(tokenizer: Any, folder: Path) -> bool:
    """Copy what the tokenizer was read from; False, with nothing done, where that is not the whole of it."""
    files = _original_files(str(tokenizer.name_or_path))
    if not files or _has_grown(tokenizer, files[0].parent):
        return False
    for path in files:
        if not (folder / path.name).exists() or not path.samefile(folder / path.name):
            shutil.copyfile(path, folder / path.name)
    return True


def _original_files(source: str) -> list[Path]:
    """The files of a folder, or of a name on the Hub in this machine's cache."""
    if Path(source).is_dir():
        return [path for name in ORIGINAL_FILES if (path := Path(source) / name).is_file()]
    from transformers.utils.hub import cached_file

    found = (
        cached_file(
            source,
            name,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for name in ORIGINAL_FILES
    )
    return [Path(path) for path in found if path is not None] if source else []


def _has_grown(tokenizer: Any, source: Path) -> bool:
    return len(open_auto(source, local_files_only=True)) != len(tokenizer)


_UNKNOWN_BEFORE_5 = ("TokenizersBackend", "SentencePieceBackend", "PythonBackend")
"""Classes that version 5 of transformers names."""


def _as_plain_class(path: Path) -> None:
    """`tokenizer_config.json` as every version reads it."""
    settings = json.loads(path.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    if "extra_special_tokens" in settings:
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _write_merges_as_text(path: Path) -> None:
    """`a b` instead of `[a, b]`: the original code's tokenizers (0.19) know no other form, and today's read both."""
    content = json.loads(path.read_text())
    merges = content["model"].get("merges", [])
    if merges and not any(isinstance(pair, str) or " " in "".join(pair) for pair in merges):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file as transformers writes them, two blanks deep and with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")
