"""The tokenizer of a variant: found below the data root or beside a run, made for the tiny variant, else on the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.language import tokenizer_files
from mmcore.language.conversation_templates import template
from mmcore.runs.settings import cache_folder

from mmcore_visper.config import VisperConfig

VERSION = 2
"""Grows when the words change: ids of older runs would mean something else."""

WORDS = """
system user assistant A chat between a curious user and an artificial intelligence assistant. The assistant gives
helpful, detailed, and polite answers to the user's questions.
What color is the circle? Which shape is red? Is there a ring? Is the bar on the left or on the right?
How many shapes are there? Which number comes after zero? Is it a color or a shape? Answer with a single word.
Describe this picture. What is in the picture? Say briefly what you see. Describe the image in two lines.
a red circle, a green ring and a blue bar yellow purple black white orange cross
yes no one two three four left right color shape
"""
"""What the sample data and its templates say; these words get tokens of their own first."""


def open_tokenizer(config: VisperConfig, places: Sequence[Path] = ()) -> Any:
    """The tokenizer that `config.tokenizer` names, with every token of the conversation template.

    Args:
        config: `tokenizer` is a Hub name, a folder, or "tiny"; `template` says what it must know.
        places: folders to look into before the Hub is asked, in order.

    Raises:
        RecipeError: it lacks tokens of the template, or the template does not exist.
        WeightsError: it cannot be read.
    """
    return tokenizer_files.open_tokenizer(config.tokenizer, template(config.template), places, {"tiny": write_tiny})


def write_tiny() -> Path:
    """The folder of the tiny variant's tokenizer."""
    return write_tokenizer(cache_folder(), "visper-tiny", WORDS, VERSION)
