"""From a recipe's entries to sources, collators and evaluators: how the records of each are asked."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmcore.contract.entry import read_entries
from mmcore.contract.mixture import ByTask
from mmcore.contract.protocols import DataContext, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Recipe, Stage
from mmcore.data.conversations import ConversationSource, open_questions
from mmcore.data.entry import Entry, Opened, asks, chosen, chosen_validations, open_entry, worded
from mmcore.data.formats.box_lines import KINDS, Kind, LineScenes
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.registry import Formats
from mmcore.data.named_boxes import RecordScenes, Scene, Scenes, as_coco
from mmcore.data.readback import refuse_unreadable
from mmcore.data.records import Records
from mmcore.data.shares import drawn
from mmcore.data.wordings import wordings_of
from mmcore.errors import RecipeError, suggest
from mmcore.evaluate.descriptions import Descriptions
from mmcore.evaluate.short_answers import BENCHMARKS
from mmcore.evaluate.spoken_boxes import Counts, Expressions, Phrases, TextEvaluator, Truth
from mmcore.evaluate.spoken_detection import DetectionFromText
from mmcore.evaluate.vqa import AnswerEvaluator
from mmcore.language.collate import ConversationCollator
from mmcore.language.conversation import MARKER
from mmcore.language.conversation_templates import template
from mmcore.language.tokenizer_files import open_tokenizer
from pydantic import Field

from mmcore_griffon import reading
from mmcore_griffon.answers import unreadable
from mmcore_griffon.config import GriffonConfig, config_of
from mmcore_griffon.data.formats import ASKED, FORMATS
from mmcore_griffon.data.questions import BANKS, NUM_CLASSES
from mmcore_griffon.data.sources import AskedSource, BoxSource, Reader, targets
from mmcore_griffon.data.wordings import PLACEHOLDERS, banks
from mmcore_griffon.tokenizer import MADE, PAD

BOXES = ("detect", "refer", "ground", "region_caption", "count")
LEARNS, MEASURES = (*BOXES, "converse", "caption"), (*BOXES, "ask", "converse")
"""The tasks of annotations that Griffon is trained on, and those it is evaluated by."""
LONGEST: Mapping[Kind, int] = {"DET": 2048, "RANDDET": 2048, "VISJ": 2048, "VG": 1024, "REC": 128, "REG": 128}
"""Longest answers; of DET and REC as published (eval_detection.py, eval_rec.py), others assumed."""
EVALUATORS: Mapping[Kind, type[TextEvaluator]] = {
    "VG": Phrases,
    "REC": Expressions,
    "REG": Descriptions,
    "VISJ": Counts,
}
READING = 1
"""Grows when answers are written or read in another way."""
IMAGE_WORDS = 128
"""What a picture counts where lengths are grouped by modality; nothing where they are grouped by task."""


class Transform(Recipe):
    """What the recipe's `data.transform` may hold."""

    pack_to: int | None = None
    """Length of rows that hold several samples; None gives every sample a row of its own."""


class Options(Recipe):
    """What Griffon understands of an entry's `options`, beside those of its format."""

    kind: Literal["DET", "RANDDET", "VISJ", "VG", "REC", "REG"] | None = None
    """How its records are asked; None is what its format is for."""
    question: str | None = None
    """The wording of every question of a validation set; None is the first of the bank."""
    answer_format: bool | None = None
    """Say in questions of detection how to answer. The published evaluation does not; None does so for own data."""
    whole_names: bool | None = None
    """Take all that stands before a box for its class, not what follows the last hyphen; None does so for own data, and
    where a class has a hyphen, which the published rule never finds."""
    classes_per_question: int = NUM_CLASSES
    """Classes that one question of detection names; files with more are asked several times a picture."""
    max_new_tokens: int | None = None
    """How long an answer may get; None is the kind's."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of all records of the list that it comes from, how many are drawn; set by a list of lists."""
    share_of: str | None = None
    """The list."""
    of: str | None = None
    """The training source that a validation set belongs to; None is the one of its name."""


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from, its answers read back.

    Raises:
        DataError: a format cannot be read, a file is damaged, or an answer cannot be read back.
        MissingDataError: an annotation file or image folder is not there.
        RecipeError: an option, a template or a model setting does not exist.
    """
    config = config_of(stage, context.variant)
    reader = _reader(stage, context, config)
    wordings = dict(reader.wordings)
    entries = {name: _open(name, one, context, LEARNS) for name, one in chosen(stage.data.sources, context).items()}
    records = {name: _records(one, wordings["captions"]) for name, one in entries.items()}
    options = {name: one.options for name, one in entries.items()}
    records = drawn(records, {name: (str(of.share_of), of.share) for name, of in options.items() if of.share})
    sources: dict[str, DataSource] = {}
    for name, opened in entries.items():
        if opened.format.content == "conversations":
            sources[name] = ConversationSource(
                name, records[name], opened.images, reader.processor, max_pixels=reader.max_pixels
            )
            continue
        kinds = _kinds(opened)
        read_back(records[name], kinds, reader.side, context.cache)
        image_words = 0 if isinstance(stage.data.mixture, ByTask) else IMAGE_WORDS
        sources[name] = BoxSource(name, records[name], opened.images, reader, kinds, image_words)
    transform = read_entries(Transform, stage.data.transform, "Griffon has no transform", "data.transform")
    collate = config.collator(reader.processor, pack_to=transform.pack_to)
    return Datasets(sources, dict.fromkeys(sources, collate), wordings=wordings)


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources, else all.

    Raises:
        DataError: as `build_train`.
    """
    config = config_of(stage, context.variant)
    reader = _reader(stage, context, config)
    sources: dict[str, DataSource] = {}
    collate: dict[str, ConversationCollator] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    for name, entry in chosen_validations(stage, context).items():
        opened = _open(name, entry, context, MEASURES)
        if opened.format.content in ("conversations", "questions"):
            longest = opened.options.max_new_tokens or LONGEST["REC"]
            asked = open_questions(
                opened, reader.processor, suffix="", max_new_tokens=longest, max_pixels=reader.max_pixels
            )
            scored = BENCHMARKS.get(opened.format.name, AnswerEvaluator)
            sources[name], evaluators[name] = asked, partial(scored, asked.questions)
        else:
            source = sources[name] = _asked(opened, reader)
            evaluators[name] = _evaluator(opened, source)
        collate[name] = config.collator(reader.processor, padding_side="left")
    return Datasets(sources, collate, evaluators)


def _reader(stage: Stage, context: DataContext, config: GriffonConfig) -> Reader:
    tokenizer = open_tokenizer(config.tokenizer, template(config.template), [context.root], MADE, pad=PAD)
    return Reader(
        processor=config.processor(tokenizer, stage.max_length),
        crops=config.pixels(config.region_size),
        apart=config.region_tower is not None,
        wordings=wordings_of(banks(), context.root, stage.data.templates),
        max_pixels=stage.data.max_pixels,
    )


def _open(name: str, entry: Entry, context: DataContext, tasks: tuple[str, ...]) -> Opened[Options]:
    formats = Formats.of({one.name: one for one in (*FORMATS, *context.formats)}.values())
    return open_entry(name, entry, context, formats, tasks=tasks, options=Options)


def _records(opened: Opened[Options], requests: Sequence[str]) -> Any:
    """Conversations, or records with boxes."""
    if opened.format.content == "conversations":
        return LlavaIndex(worded(opened, requests if asks(opened) else ()).index())
    return _scenes(opened)


def read_back(scenes: Scenes, kinds: Sequence[Kind], side: int, cache: Path) -> None:
    """Refuse records of which an answer cannot be read back, as it is written for a square of this side.

    Raises:
        DataError: names the first that failed, and how many there are.
    """
    named = any(kind not in ("VISJ", "REG") for kind in kinds)

    def why(scene: Scene) -> str | None:
        names, boxes = scene.rows()
        return unreadable(boxes, scene.size, side, names if named else None)

    known = "answers look like name-[0.100,0.200,0.300,0.400]&name-[...]"
    refuse_unreadable(scenes, why, known, f"{side}-{'named' if named else 'bare'}-{READING}", cache)


def _scenes(opened: Opened[Options], *, keep_empty: bool = False) -> Scenes:
    if opened.format.name in KINDS:
        return LineScenes(opened.index())
    return RecordScenes(Records(opened.index(), keep_empty=keep_empty), _task(opened))


def _task(opened: Opened[Options]) -> str:
    """What records of a format of the core are asked about: the first that the entry is wanted for."""
    return next(task for task in (*opened.tasks, "detect") if task in ASKED)


def _kinds(opened: Opened[Options]) -> tuple[Kind, ...]:
    if opened.options.kind is not None:
        return (_fitting(opened, opened.options.kind),)
    if opened.format.name in KINDS:
        return (KINDS[opened.format.name],)
    return ASKED[_task(opened)]


def _fitting(opened: Opened[Options], kind: Kind) -> Kind:
    """The kind that an option names, where the records can be asked so: classes not as descriptions."""
    classes = ("DET", "RANDDET", "VISJ", "VG")
    detects = KINDS.get(opened.format.name, "DET" if _task(opened) == "detect" else "REC") in classes[:3]
    known = classes if detects else ("VG", "REC", "REG")
    if kind not in known:
        raise RecipeError(
            f"records of {opened.format.name} cannot be asked as {kind}",
            where=f"source {opened.name!r}, options.kind",
            known=known,
            do=suggest(kind, known, "choose one of these"),
        )
    return kind


# ---- validation ----


def _asked(opened: Opened[Options], reader: Reader) -> AskedSource:
    options = opened.options
    scenes, (kind, *_) = _scenes(opened, keep_empty=True), _kinds(opened)
    size = options.classes_per_question
    names = scenes.categories()
    lists = tuple(names[start : start + size] for start in range(0, len(names), size))
    form = opened.own if options.answer_format is None else options.answer_format
    return AskedSource(
        name=opened.name,
        scenes=scenes,
        images=opened.images,
        reader=reader,
        kind=kind,
        wording=_wording(opened, kind, reader.wordings[BANKS[kind]][0]),
        targets=targets(kind, scenes, lists),
        lists=lists,
        max_new_tokens=options.max_new_tokens or LONGEST[kind],
        answer_format=form,
    )


def _wording(opened: Opened[Options], kind: Kind, first: str) -> str:
    """Of every question of a validation set; one's own gets the picture's marker where it has none."""
    own = opened.options.question
    if own is None:
        return first
    # The classes of detection may be written out; nothing else is the same in every question.
    lost = [mark for mark in PLACEHOLDERS[BANKS[kind]] if mark not in own and mark not in (MARKER, "<category set>")]
    if lost:
        where = f"validation set {opened.name!r}, options.question"
        raise RecipeError(f"the question lacks {lost[0]}, which stands for what is asked about", where=where)
    return own if MARKER in own else f"{MARKER}\n{own}"


def _evaluator(opened: Opened[Options], source: AskedSource) -> Callable[[], Evaluator]:
    if source.kind in ("DET", "RANDDET"):
        whole = opened.options.whole_names
        if whole is None:
            whole = opened.own or any("-" in name for name in source.scenes.categories())
        coco = opened.format.evaluator == "coco" and opened.truth(source.scenes.index) is not None
        truth = None if coco else partial(as_coco, source.scenes)
        named = reading.whole if whole else reading.published
        return partial(DetectionFromText, opened.files[0], reading.read_boxes, named, truth=truth)
    return partial(EVALUATORS[source.kind], _truths(source), reading.read_boxes)


def _truths(source: AskedSource) -> Sequence[Truth]:
    found = []
    for position, part in source.targets:
        if source.scenes.unusable(position):  # asking about it stops the evaluation, or leaves it out
            found.append(Truth(-1, "", (), (1, 1)))
            continue
        scene = source.scenes[position]
        found.append(Truth(scene.id, scene.names[part], scene.boxes[part], scene.size))
    return found
