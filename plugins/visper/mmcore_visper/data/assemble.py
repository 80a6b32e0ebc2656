"""From a recipe's entries to sources, collators and evaluators: formats, files, and how the stage reads them."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmcore.contract.protocols import DataContext, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.data.formats.captions import CaptionParser
from mmcore.data.formats.llava import LlavaIndex, LlavaParser
from mmcore.data.images import locate
from mmcore.data.index import open_index
from mmcore.errors import DataError, RecipeError, suggest
from mmcore.evaluate.vqa import Question, blind_answers, read_questions
from mmcore.language.conversation import template
from mmcore.vision.clip_images import ClipImages

from mmcore_visper.cache import targets_for
from mmcore_visper.config import VARIANTS, ConvNextTower, VisperConfig
from mmcore_visper.data.collate import Collate
from mmcore_visper.data.sources import ConversationSource, QuestionSource, Reading
from mmcore_visper.data.targets import Targets
from mmcore_visper.evaluate import BENCHMARKS, benchmark
from mmcore_visper.evaluate.probing import ProbeEvaluator
from mmcore_visper.tokenizer import open_tokenizer

LLAVA, CAPTIONS, PROBING = "LLaVA JSON", "COCO captions", "COCO captions, probing"
CONVERSATIONS = (LLAVA, CAPTIONS, PROBING)
OPTIONS = ("max_new_tokens", "suffix", "chance_from", "of", "squash_px", "requests")
"""What `options` of an entry may hold: how long an answer may get; what is added to a question; the training file from
which blind guessing learns; the training source that a validation set belongs to; the side that pictures are squashed
to; the requests of captions."""

TRANSFORM = ("pack_to",)
"""What the recipe's `data.transform` may hold: the length of rows that hold several samples; without it every sample
has a row of its own."""

PROBE_REQUEST = "Describe the image in two lines."
"""Of the published probing: part of what the probed hidden states depend on; the marker stands behind it."""

Entry = Source | Validation


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from.

    Raises:
        DataError: a format cannot be read, or a file is damaged.
        MissingDataError: an annotation file or image folder is not there.
        RecipeError: an option, a template or a model setting does not exist, or the tokenizer lacks tokens.
    """
    entries = {
        name: source
        for name, source in stage.data.sources.items()
        if source.weight > 0 and (context.only is None or name in context.only)
    }
    config = settings_of(stage, context.variant)
    reading = _reading(stage, config, context, targets_for(stage, context))
    collate = Collate(
        config, reading.max_length, tokenizer=reading.tokenizer, pack_to=_pack_to(stage, reading.max_length)
    )
    sources: dict[str, DataSource] = {
        name: _conversations(name, entry, reading, context) for name, entry in entries.items()
    }
    return Datasets(sources, dict.fromkeys(sources, collate))


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources, else all.

    Raises:
        DataError: as `build_train`.
    """
    config = settings_of(stage, context.variant)
    reading = _reading(stage, config, context, None)
    sources: dict[str, DataSource] = {}
    collate: dict[str, Collate] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    for name, entry in _chosen_validations(stage, context).items():
        if entry.format == PROBING:
            probed = replace(reading, targets=targets_for(stage, context, split="val"))
            source = _conversations(name, entry, probed, context)
            sources[name], collate[name] = source, Collate(config, reading.max_length)
            evaluators[name] = partial(ProbeEvaluator, config.probe)
        else:
            questions = _questions(name, entry, reading, context)
            sources[name], collate[name] = questions, Collate(config, reading.max_length, padding_side="left")
            evaluators[name] = _evaluator(entry, questions, context)
    return Datasets(sources, collate, evaluators)


def settings_of(stage: Stage, variant: str) -> VisperConfig:
    """The configuration of a stage: the variant's with the recipe's `model` entries.

    Raises:
        RecipeError: an entry does not exist.
    """
    return VARIANTS[variant].replace(**stage.model)


def _reading(stage: Stage, config: VisperConfig, context: DataContext, targets: Targets | None) -> Reading:
    library = "torchvision" if isinstance(config.tower, ConvNextTower) else "transformers"
    return Reading(
        template=template(config.template),
        tokenizer=open_tokenizer(config, [context.root]),
        pixels=ClipImages(config.image_size, config.image_aspect, library=library),
        max_length=min(config.max_length, stage.max_length or config.max_length),
        image_rows=sum(rows for _, rows in next(iter(config.expansion.values()))),
        targets=targets,
        max_pixels=stage.data.max_pixels,
    )


def _pack_to(stage: Stage, max_length: int) -> int | None:
    """Length of packed rows, None for padded ones."""
    for entry in stage.data.transform:
        if entry not in TRANSFORM:
            raise RecipeError(
                f"VisPer-LM has no data.transform entry {entry!r}",
                where="data.transform",
                known=TRANSFORM,
                do=suggest(entry, TRANSFORM, "choose one of these"),
            )
    length = stage.data.transform.get("pack_to")
    if length is None:
        return None
    if not isinstance(length, int) or length < max_length:
        raise RecipeError(
            f"packed rows of {length!r} positions cannot hold every sample",
            where="data.transform.pack_to",
            do=f"give at least max_length, {max_length}",
        )
    return length


# ---- sources ----


def _conversations(name: str, entry: Entry, reading: Reading, context: DataContext) -> ConversationSource:
    _check_options(name, entry)
    _refuse_unreadable(name, entry, CONVERSATIONS)
    path = locate(context.root, _file(entry), f"source {name!r}")
    index = open_index(_parser(path, entry), context.cache)
    images = locate(context.root, entry.images, f"source {name!r}")
    if entry.options.get("squash_px"):
        reading = replace(reading, squash_px=int(entry.options["squash_px"]))
    return ConversationSource(name, LlavaIndex(index), images, reading)


def _parser(path: Path, entry: Entry) -> LlavaParser | CaptionParser:
    if entry.format == PROBING:
        return CaptionParser(path, requests=(PROBE_REQUEST,), answer="n", one_per_image=True, marker_last=True)
    if entry.format == CAPTIONS:
        requests = entry.options.get("requests")
        return CaptionParser(path, requests=tuple(requests)) if requests else CaptionParser(path)
    return LlavaParser(path)


def _questions(name: str, entry: Entry, reading: Reading, context: DataContext) -> QuestionSource:
    _check_options(name, entry)
    _refuse_unreadable(name, entry, (*BENCHMARKS, LLAVA))
    path = locate(context.root, _file(entry), f"validation set {name!r}")
    if entry.format == LLAVA:
        questions = _first_turns(LlavaIndex(open_index(LlavaParser(path), context.cache)))
    else:
        questions = read_questions(path)
    return QuestionSource(
        name=name,
        questions=questions,
        images=locate(context.root, entry.images, f"validation set {name!r}"),
        reading=reading,
        suffix=str(entry.options.get("suffix", benchmark(entry.format).suffix)),
        label=str(path),
        content=hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
        max_new_tokens=int(entry.options.get("max_new_tokens", benchmark(entry.format).max_new_tokens)),
    )


def _first_turns(records: LlavaIndex) -> tuple[Question, ...]:
    """The first question of every usable training record, with its answer."""
    found = []
    for position in range(len(records)):
        if records.unusable(position):
            continue
        record = records[position]
        asked, answered = record.turns()[:2]
        text = asked.text.removeprefix("<image>\n")
        found.append(Question(position, text, record.image, (answered.text,), {}))
    return tuple(found)


# ---- validation ----


def _chosen_validations(stage: Stage, context: DataContext) -> dict[str, Validation]:
    entries = stage.validation
    if context.only is None:
        return entries
    named = {name: entry for name, entry in entries.items() if name in context.only}
    return named or {name: entry for name, entry in entries.items() if entry.options.get("of", name) in context.only}


def _evaluator(entry: Entry, source: QuestionSource, context: DataContext) -> Callable[[], Evaluator]:
    learned_from = entry.options.get("chance_from")
    blind, commonest = None, ""
    if learned_from:
        path = locate(context.root, str(learned_from), f"validation set {source.name!r}, chance_from")
        blind, commonest = blind_answers(_pairs(LlavaIndex(open_index(LlavaParser(path), context.cache))))
    return partial(benchmark(entry.format).evaluator, source.questions, blind, commonest)


def _pairs(records: LlavaIndex) -> list[tuple[str, str]]:
    """Question and answer of every turn of a training file."""
    pairs = []
    for position in range(len(records)):
        if not records.unusable(position):
            turns = records[position].turns()
            asked = [turn.text.removeprefix("<image>\n") for turn in turns[::2]]
            pairs += list(zip(asked, (turn.text for turn in turns[1::2])))
    return pairs


# ---- what entries may say ----


def _refuse_unreadable(name: str, entry: Entry, known: tuple[str, ...]) -> None:
    if entry.format not in known:
        raise DataError(
            f"{name!r} has the format {entry.format!r}, which cannot be read",
            where=f"{name}, {_file(entry)}",
            known=known,
            do=suggest(entry.format, known, "set its format to one of these"),
        )


def _check_options(name: str, entry: Entry) -> None:
    for key in entry.options:
        if key not in OPTIONS:
            raise RecipeError(
                f"a source has no option {key!r}",
                where=f"source {name!r}, options",
                known=OPTIONS,
                do=suggest(key, OPTIONS, "remove it or choose one of these"),
            )


def _file(entry: Entry) -> str:
    files: Any = entry.annotations
    return files if isinstance(files, str) else str(files[0]) if files else ""
