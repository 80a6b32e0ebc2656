"""The tokenizer of the tiny variant, made on the spot."""

from pathlib import Path

from mmcore.data.demo.tiny_tokenizer import LLAMA2, write_tokenizer
from mmcore.runs.settings import cache_folder

VERSION = 3
"""Grows when the words change: ids of older runs would mean something else."""

WORDS = """
A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and
polite answers to the human's questions. USER: ASSISTANT: The image provides an overview of the picture.
This is it: Sure, Certainly, it is Here is the mask you asked for:
Please segment the in this image. Mark picture for me. Find here give its Show which pixels belong to Where photo? What
Answer with Can you segment Which part of the image Describe this image in detail, and mark each thing you mention with
its segmentation mask. show? Give the masks of the phrases along text. Tell about scene, Region region Look at describe
a red circle, a green ring and a blue bar yellow purple black white orange cross square triangle lies of beside shape
left right top bottom above below large small the in of on and with
"""
"""What the sample data and its templates say; these words get tokens of their own first."""


def write_tiny() -> Path:
    """The folder of the tiny variant's tokenizer."""
    return write_tokenizer(cache_folder(), "glamm-tiny", WORDS, VERSION, LLAMA2)
