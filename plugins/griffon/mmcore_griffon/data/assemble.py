"""From a recipe's entries to sources, collators and evaluators."""

from collections.abc import Callable
from functools import partial

from mmcore.contract.entry import read_entries
from mmcore.contract.protocols import DataContext, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Recipe, Stage
from mmcore.data.conversations import ConversationSource, open_questions
from mmcore.data.entry import chosen, open_entry
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.registry import Formats
from mmcore.evaluate.vqa import AnswerEvaluator
from mmcore.language.collate import ConversationCollator

from mmcore_griffon.config import config_of
from mmcore_griffon.tokenizer import open_tokenizer

MAX_NEW_TOKENS = 64


class Transform(Recipe):
    """What the recipe's `data.transform` may hold."""

    pack_to: int | None = None
    """Length of rows that hold several samples; None gives every sample a row of its own."""


class Options(Recipe):
    """What Griffon understands of an entry's `options`, beside those of its format."""


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from."""
    config = config_of(stage, context.variant)
    transform = read_entries(Transform, stage.data.transform, "Griffon has no transform", "data.transform")
    processor = config.processor(open_tokenizer(config, [context.root]), stage.max_length)
    formats = Formats.of(context.formats)
    sources: dict[str, DataSource] = {}
    for name, entry in chosen(stage.data.sources, context).items():
        opened = open_entry(name, entry, context, formats, tasks=("converse",), options=Options)
        records = LlavaIndex(opened.index())
        sources[name] = ConversationSource(name, records, opened.images, processor, max_pixels=stage.data.max_pixels)
    return Datasets(sources, dict.fromkeys(sources, config.collator(processor, pack_to=transform.pack_to)))


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets."""
    config = config_of(stage, context.variant)
    processor = config.processor(open_tokenizer(config, [context.root]), stage.max_length)
    formats = Formats.of(context.formats)
    sources: dict[str, DataSource] = {}
    collate: dict[str, ConversationCollator] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    for name, entry in stage.validation.items():
        opened = open_entry(name, entry, context, formats, tasks=("ask", "converse"), options=Options)
        asked = open_questions(
            opened, processor, suffix="", max_new_tokens=MAX_NEW_TOKENS, max_pixels=stage.data.max_pixels
        )
        sources[name], collate[name] = asked, config.collator(processor, padding_side="left")
        evaluators[name] = partial(AnswerEvaluator, asked.questions)
    return Datasets(sources, collate, evaluators)
