"""The tokenizer of a variant: found below the data root or beside a run, made for tiny ones, else on the Hub."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from mmcore.data.demo.tiny_tokenizer import GEMMA, LLAMA2, QWEN2, Specials, write_tokenizer
from mmcore.runs.settings import cache_folder

PAD: Literal["unknown"] = "unknown"
"""Padding is the unknown token where there is one, as published: of Gemma `<unk>`, not `<pad>`."""
VERSION = 2
"""Grows when the words change: ids of older runs would mean something else."""

WORDS = """
user model system assistant You are a helpful language and vision assistant. You are able to understand the visual
content that the user provides, and assist the user with a variety of tasks using natural language. Answer in the
format: class name-[x1, y1, x2, y2], and concatenate them with &. red green blue yellow purple circle square triangle
cross zero one two three four How many shapes are there? What color is Which shape Which number comes after Describe
this picture. What is in the picture? Say briefly what you see. None yes no left right ]& -[ , .
Find every object of these classes in Give a box for each Every counts The are Mark all things that belong to one Look
through objects the following Which and where Point out whose class is on this list Search anything Say below Go over
Where do you see picture Please find Show me Draw around Put please Locate photo place What In which part I look it
want know Tell Can point Could mark shows Write down give its Box Help There only One enough It single thing Answer
with show holds at Here Describe so nothing else fits Name way means alone what sets apart Use words fit phrase How
would call clear meant from rest few short description mean no other Take something See Of consider A marked Somebody
Mind everything looks like Miss none example as well Small ones count too kind an more many resemble such Count boxes
places
"""
"""What the sample data and its templates say; these words get tokens of their own first."""


def _write(name: str, special: Specials) -> Path:
    return write_tokenizer(cache_folder(), f"griffon-{name}", WORDS, VERSION, special)


MADE: Mapping[str, Callable[[], Path]] = {
    name: partial(_write, name, special)
    for name, special in {"tiny-gemma2": GEMMA, "tiny-llama2": LLAMA2, "tiny-qwen25": QWEN2}.items()
}
"""Name -> what writes the folder of a tiny variant's tokenizer."""
