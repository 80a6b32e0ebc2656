"""From a recipe's entries to sources, collators and evaluators: how the stage reads conversations and questions."""

from collections.abc import Callable
from functools import partial

from mmcore.contract.entry import read_entries
from mmcore.contract.protocols import DataContext, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Recipe, Stage
from mmcore.data.cache.choice import Features
from mmcore.data.conversations import ConversationSource, QuestionSource, answered_pairs, open_questions
from mmcore.data.entry import Entry, Opened, asks, chosen, chosen_validations, open_entry, worded
from mmcore.data.formats.captions import REQUESTS
from mmcore.data.formats.llava import LlavaIndex, LlavaParser
from mmcore.data.formats.registry import Formats
from mmcore.data.images import locate
from mmcore.data.index import open_index
from mmcore.errors import RecipeError
from mmcore.evaluate.vqa import blind_answers
from mmcore.language.collate import ConversationCollator
from mmcore.language.processor import Processor
from mmcore.language.templates import Bank, replace_banks

from mmcore_visper.config import config_of
from mmcore_visper.data.formats import FORMATS, PROBING
from mmcore_visper.evaluate import benchmark
from mmcore_visper.evaluate.probing import ProbeEvaluator
from mmcore_visper.targets import targets_for
from mmcore_visper.tokenizer import open_tokenizer

LEARNS, MEASURES = ("converse", "caption", "probe"), ("ask", "converse", "caption", "probe")
"""The tasks of annotations that VisPer-LM is trained on, and those it is evaluated by."""


class Transform(Recipe):
    """What the recipe's `data.transform` may hold."""

    pack_to: int | None = None
    """Length of rows that hold several samples; None gives every sample a row of its own."""


class Options(Recipe):
    """What VisPer-LM understands of an entry's `options`, beside those of its format."""

    max_new_tokens: int | None = None
    """How long an answer may get; None is the benchmark's limit."""
    suffix: str | None = None
    """What is added to a question; None is what the benchmark adds."""
    chance_from: str | None = None
    """The training file from which blind guessing learns."""
    of: str | None = None
    """The training source that a validation set belongs to; None is the one of its name."""
    squash_px: int | None = None
    """The side that pictures are squashed to."""


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from.

    Raises:
        DataError: a format cannot be read, or a file is damaged.
        MissingDataError: an annotation file or image folder is not there.
        RecipeError: an option, a template or a model setting does not exist, or the tokenizer lacks tokens.
    """
    config = config_of(stage, context.variant)
    processor = config.processor(open_tokenizer(config, [context.root]), stage.max_length)
    collate = config.collator(processor, pack_to=_pack_to(stage, processor.max_length))
    targets = targets_for(stage, context)
    entries = [_open(name, entry, context, LEARNS) for name, entry in chosen(stage.data.sources, context).items()]
    wordings = _wordings(stage, context) if any(map(asks, entries)) else {}
    sources: dict[str, DataSource] = {
        one.name: _conversations(worded(one, wordings.get("captions", ())), stage, processor, targets)
        for one in entries
    }
    return Datasets(sources, dict.fromkeys(sources, collate), wordings=wordings)


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources, else all.

    Raises:
        DataError: as `build_train`.
    """
    config = config_of(stage, context.variant)
    processor = config.processor(open_tokenizer(config, [context.root]), stage.max_length)
    sources: dict[str, DataSource] = {}
    collate: dict[str, ConversationCollator] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    for name, entry in chosen_validations(stage, context).items():
        opened = _open(name, entry, context, MEASURES)
        if opened.format.name == PROBING:
            targets = targets_for(stage, context, split="val")
            sources[name] = _conversations(opened, stage, processor, targets)
            collate[name] = config.collator(processor)
            evaluators[name] = partial(ProbeEvaluator, config.probe)
        else:
            questions = sources[name] = _questions(opened, stage, processor)
            collate[name] = config.collator(processor, padding_side="left")
            evaluators[name] = _evaluator(opened, questions, context)
    return Datasets(sources, collate, evaluators)


def _open(name: str, entry: Entry, context: DataContext, tasks: tuple[str, ...]) -> Opened[Options]:
    formats = Formats.of({one.name: one for one in (*FORMATS, *context.formats)}.values())
    return open_entry(name, entry, context, formats, tasks=tasks, options=Options)


def _wordings(stage: Stage, context: DataContext) -> dict[str, tuple[str, ...]]:
    banks = {"captions": Bank(REQUESTS)}
    if stage.data.templates is not None:
        banks = replace_banks(banks, locate(context.root, stage.data.templates, "data.templates"))
    return {name: bank.wordings for name, bank in banks.items()}


def _pack_to(stage: Stage, max_length: int) -> int | None:
    """Length of packed rows, None for padded ones."""
    length = read_entries(Transform, stage.data.transform, "VisPer-LM has no transform", "data.transform").pack_to
    if length is None:
        return None
    if length < max_length:
        raise RecipeError(
            f"packed rows of {length!r} positions cannot hold every sample",
            where="data.transform.pack_to",
            do=f"give at least max_length, {max_length}",
        )
    return length


# ---- sources ----


def _conversations(
    opened: Opened[Options], stage: Stage, processor: Processor, targets: Features | None
) -> ConversationSource:
    return ConversationSource(
        opened.name,
        LlavaIndex(opened.index()),
        opened.images,
        processor,
        features=targets,
        squash_px=opened.options.squash_px,
        max_pixels=stage.data.max_pixels,
    )


def _questions(opened: Opened[Options], stage: Stage, processor: Processor) -> QuestionSource:
    asked, options = benchmark(opened.format.name), opened.options
    return open_questions(
        opened,
        processor,
        suffix=asked.suffix if options.suffix is None else options.suffix,
        max_new_tokens=asked.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens,
        max_pixels=stage.data.max_pixels,
    )


# ---- validation ----


def _evaluator(opened: Opened[Options], source: QuestionSource, context: DataContext) -> Callable[[], Evaluator]:
    blind, commonest = None, ""
    if opened.options.chance_from:
        path = locate(context.root, opened.options.chance_from, f"validation set {source.name!r}, chance_from")
        blind, commonest = blind_answers(answered_pairs(LlavaIndex(open_index(LlavaParser(path), context.cache))))
    return partial(benchmark(opened.format.name).evaluator, source.questions, blind, commonest)
