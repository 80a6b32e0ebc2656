"""The tokenizer of the tiny variant."""

from pathlib import Path

from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.runs.settings import cache_folder

WORDS = "user assistant What colour is the square? red green blue yellow"
"""Of the sample data; they get tokens of their own."""
VERSION = 1


def write_tiny() -> Path:
    """The folder of the tiny variant's tokenizer."""
    return write_tokenizer(cache_folder(), "glamm-tiny", WORDS, VERSION)
