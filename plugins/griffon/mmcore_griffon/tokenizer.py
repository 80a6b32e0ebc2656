"""The tokenizer of a variant: found below the data root or beside a run, made for tiny ones, else on the Hub."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmcore.data.demo.tiny_tokenizer import GEMMA, LLAMA2, QWEN2, Specials, write_tokenizer
from mmcore.language import tokenizer_files
from mmcore.language.conversation_templates import template
from mmcore.runs.settings import cache_folder

from mmcore_griffon.config import GriffonConfig

VERSION = 1
"""Grows when the words change: ids of older runs would mean something else."""

WORDS = """
user model system assistant You are a helpful language and vision assistant. You are able to understand the visual
content that the user provides, and assist the user with a variety of tasks using natural language.
Find every object of these classes and give its coordinates: Answer in the format: class name-[x1, y1, x2, y2], and
concatenate them with &. Where is the red circle? Locate all objects like this one. What is at this place?
a red circle, a green ring and a blue bar yellow purple black white orange cross square star
None yes no left right top bottom large small
"""
"""What the sample data and its templates say; these words get tokens of their own first."""


def open_tokenizer(config: GriffonConfig, places: Sequence[Path] = ()) -> Any:
    """The tokenizer that `config.tokenizer` names; it pads with its unknown token where it has one, as published.

    Args:
        config: `tokenizer` is a Hub name, a folder, or one of `MADE`; `template` says what it must know.
        places: folders to look into before the Hub is asked, in order.

    Raises:
        RecipeError: it lacks tokens of the template, or the template does not exist.
        WeightsError: it cannot be read.
    """
    named, written = config.tokenizer, template(config.template)
    return tokenizer_files.open_tokenizer(named, written, places, MADE, pad="unknown")


def _write(name: str, special: Specials) -> Path:
    return write_tokenizer(cache_folder(), f"griffon-{name}", WORDS, VERSION, special)


MADE: Mapping[str, Callable[[], Path]] = {
    name: partial(_write, name, special)
    for name, special in {"tiny-gemma2": GEMMA, "tiny-llama2": LLAMA2, "tiny-qwen25": QWEN2}.items()
}
"""Name -> what writes the folder of a tiny variant's tokenizer."""
