"""Conversations and questions as GLaMM reads them, and the sample data of --demo."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from mmcore import DataContext, Datasets, DataSource, Evaluator, Stage
from mmcore.contract.entry import read_entries
from mmcore.contract.protocols import Collator
from mmcore.contract.recipe import Recipe
from mmcore.data.conversations import ConversationSource, open_questions
from mmcore.data.entry import chosen, open_entry
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.registry import Formats
from mmcore.evaluate.vqa import AnswerEvaluator
from PIL import Image

from mmcore_glamm.config import config_of
from mmcore_glamm.tokens import open_tokenizer

MAX_NEW_TOKENS = 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 60, 220), "yellow": (230, 220, 40)}


class Nothing(Recipe):
    """What `data.transform` and the options of a source may hold beside those of its format."""


def build(stage: Stage, split: str, context: DataContext) -> Datasets:
    """The sources of one split, by the names that the recipe uses."""
    config = config_of(stage, context.variant)
    read_entries(Nothing, stage.data.transform, "GLaMM has no number", "data.transform")
    tokenizer = open_tokenizer(config, [context.root])
    processor = config.processor(tokenizer, stage.max_length)
    formats, limit = Formats.of(context.formats), stage.data.max_pixels
    sources: dict[str, DataSource] = {}
    collate: dict[str, Collator] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    if split == "train":
        for name, source in chosen(stage.data.sources, context).items():
            opened = open_entry(name, source, context, formats, tasks=("converse",), options=Nothing)
            records = LlavaIndex(opened.index())
            sources[name] = ConversationSource(name, records, opened.images, processor, max_pixels=limit)
            collate[name] = config.collator(processor)
        return Datasets(sources, collate)
    for name, entry in stage.validation.items():
        opened = open_entry(name, entry, context, formats, tasks=("ask", "converse"), options=Nothing)
        asked = open_questions(opened, processor, suffix="", max_new_tokens=MAX_NEW_TOKENS, max_pixels=limit)
        sources[name], collate[name] = asked, config.collator(processor, padding_side="left")
        evaluators[name] = partial(AnswerEvaluator, asked.questions)
    return Datasets(sources, collate, evaluators)


def write_demo(root: Path) -> None:
    """64 training and 16 validation pictures of one square below `root`; nothing when they are there."""
    for split, count, seed in (("train", 64, 0), ("val", 16, 1)):
        target = root / "glamm" / f"{split}.json"
        if target.exists():
            continue
        folder = target.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        records = []
        for number in range(count):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = generator.integers(90, 130, (48, 48, 3), dtype=np.uint8)
            top, left = generator.integers(0, 24, 2)
            pixels[top : top + 24, left : left + 24] = COLOURS[colour]
            name, question = f"{number:04d}.png", "What colour is the square?"
            Image.fromarray(pixels).save(folder / name)
            if split == "train":
                turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": colour}]
                records.append({"id": name, "image": name, "conversations": turns})
            else:
                records.append({"question_id": number, "image": name, "text": question, "answer": colour})
        # Written last: where this file is, the pictures are complete.
        target.write_text(json.dumps(records))
