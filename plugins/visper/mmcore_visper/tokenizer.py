"""The tokenizer of a variant: found below the data root or beside a run, made for the tiny variant, else on the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcore.language.conversation import template
from mmcore.language.tokens import load_tokenizer
from mmcore.runs.settings import cache_folder

from mmcore_visper.config import VisperConfig
from mmcore_visper.tiny_tokenizer import write_tokenizer

FOLDER = "tokenizer"
"""Where a run or an export keeps its own copy."""
TINY = "tiny"


def open_tokenizer(config: VisperConfig, places: Sequence[Path] = ()) -> Any:
    """The tokenizer that `config.tokenizer` names, with every token of the conversation template.

    Args:
        config: `tokenizer` is a Hub name, a folder, or "tiny"; `template` says what it must know.
        places: folders to look into before the Hub is asked, in order; of each also `tokenizer` and `weights/NAME`.

    Raises:
        RecipeError: it lacks tokens of the template, or the template does not exist.
        WeightsError: it cannot be read.
    """
    return load_tokenizer(find_tokenizer(config.tokenizer, places), template=template(config.template))


def find_tokenizer(name: str, places: Sequence[Path] = ()) -> str:
    """The folder that holds a tokenizer, or its name on the Hub when none does."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    for place in places:
        for folder in (place / FOLDER, place / "weights" / last, place / name, place):
            if any(folder.glob("tokenizer*.*")):
                return str(folder)
    return str(write_tokenizer(cache_folder())) if name == TINY else name
