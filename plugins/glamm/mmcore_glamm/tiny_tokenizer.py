"""The tokenizer of the tiny variant, made on the spot."""

from pathlib import Path

from mmcore.data.demo.tiny_tokenizer import write_tokenizer
from mmcore.runs.settings import cache_folder

VERSION = 2
"""Grows when the words change: ids of older runs would mean something else."""

WORDS = """
system user assistant A chat between a curious human and an artificial intelligence assistant. The assistant gives
helpful, detailed, and polite answers to the human's questions. The image provides an overview of the picture.
It is Sure, the segmentation result is Can you segment Please Describe region
a red circle, a green ring and a blue bar yellow purple black white orange cross square
left right top bottom above below large small the in of on and with
"""
"""What the sample data and its templates say; these words get tokens of their own first."""


def write_tiny() -> Path:
    """The folder of the tiny variant's tokenizer."""
    return write_tokenizer(cache_folder(), "glamm-tiny", WORDS, VERSION)
