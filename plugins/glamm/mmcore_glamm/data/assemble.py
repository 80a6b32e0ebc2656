"""From a recipe's entries to sources, collators and evaluators: what records are, and how they are asked."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from mmcore.contract.entry import read_entries
from mmcore.contract.protocols import Collate, DataContext, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Recipe, Stage
from mmcore.data.asked import AskedSource
from mmcore.data.cache.choice import Features
from mmcore.data.conversations import ConversationSource, open_questions
from mmcore.data.entry import Entry, Opened, chosen, chosen_validations, open_entry, placed
from mmcore.data.formats.grounded import GROUNDED
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.registry import Formats
from mmcore.data.formats.sidecars import SIDECARS
from mmcore.data.formats.truth import GCG_TRUTH, REGION_TRUTH, gcg_questions, region_questions
from mmcore.data.parts import Select, open_parts
from mmcore.data.wordings import wordings_of
from mmcore.errors import DataError
from mmcore.evaluate.captions import CaptionEvaluator
from mmcore.evaluate.given_answers import GivenEvaluator
from mmcore.evaluate.grounded_captions import GroundedCaptionEvaluator
from mmcore.evaluate.vqa import AnswerEvaluator
from mmcore.language.processor import Processor
from pydantic import Field

from mmcore_glamm.answers import MAX_NEW_TOKENS
from mmcore_glamm.config import GlammConfig, config_of
from mmcore_glamm.data import manners
from mmcore_glamm.data.sources import GroundedSource
from mmcore_glamm.data.templates import BANKS, Banks
from mmcore_glamm.features import features_for
from mmcore_glamm.questions import REGION_REQUEST, REQUEST, Asking
from mmcore_glamm.recipe_sources import OTHER_PLACES
from mmcore_glamm.tokens import TokenIds, open_tokenizer

LEARNS = ("grounded_caption", "refer", "segment", "region_caption", "caption", "converse")
"""The tasks of annotations that GLaMM learns; of several that a format serves the first one is taken."""
MEASURES = (*LEARNS, "ask")


class Nothing(Recipe):
    """What `data.transform` may hold: the pictures are taken as they are."""


class Options(Recipe):
    """What GLaMM understands of an entry's `options`, beside those of its format."""

    most: int = Field(default=3, ge=0)
    """Classes or expressions of one conversation (`num_classes_per_sample`); 0 asks for all of them."""
    intro: bool | None = None
    """Ask for a region after the introduction of RefCOCO and RefCOCO+; None is the format's own way."""
    first: int | None = Field(default=None, gt=0)
    """Only so many records, from the first: validation takes 1000."""
    task: Literal["grounded_caption", "refer", "segment", "region_caption"] | None = None
    """What the records are used for, where the format serves several."""
    request: str | None = None
    """What is asked of every picture or box; None is our wording."""
    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, gt=0)
    """Longest answer."""
    alike: Literal["bert", "words"] = "bert"
    """How the phrases of grounded captions are compared."""
    captioned: bool = True
    """Whether grounded captions are scored by METEOR and CIDEr."""


class Reader:
    """What all entries of a run are read with."""

    def __init__(self, stage: Stage, context: DataContext, split: str) -> None:
        read_entries(Nothing, stage.data.transform, "GLaMM has no number", "data.transform")
        self.stage, self.context, self.split = stage, context, split
        self.config: GlammConfig = config_of(stage, context.variant)
        tokenizer = open_tokenizer(self.config, [context.root])
        self.ids = TokenIds.of(tokenizer)
        self.processor: Processor = self.config.processor(tokenizer, stage.max_length)
        self.banks: Banks = wordings_of(BANKS, context.root, stage.data.templates)
        self.formats = Formats.of({one.name: one for one in (*GROUNDED, *context.formats)}.values())
        self._features: Features | None = None

    def open(self, name: str, entry: Entry, tasks: tuple[str, ...]) -> Opened[Options]:
        """An entry whose files are there.

        Raises:
            DataError: its format is not known, or serves no task.
        """
        there = placed(entry, self.context.root, OTHER_PLACES)
        if entry.format == SIDECARS:
            raise DataError(
                "SA-1B has masks without names, so nothing can be asked about them",
                where=f"source {name!r}, format",
                do="GranD describes the same pictures: its formats are listed by `mmcore data formats --plugin glamm`",
            )
        return open_entry(name, there, self.context, self.formats, tasks=tasks, options=Options)

    def source(self, opened: Opened[Options]) -> DataSource:
        """Conversations of an entry."""
        if opened.format.content == "conversations" and opened.format.name != "COCO captions":
            records, limit = LlavaIndex(opened.index()), self.stage.data.max_pixels
            return ConversationSource(opened.name, records, opened.images, self.processor, max_pixels=limit)
        manner = _manner(opened)
        masks = manner in manners.MASKED
        return GroundedSource(
            name=opened.name,
            records=open_parts(opened, SELECTS.get(manner, "classes"), self.stage.data.max_pixels),
            images=opened.images,
            manner=manner,
            most=opened.options.most or 10**6,
            banks=self.banks,
            processor=self.processor,
            features=self.features() if masks else None,
            ids=self.ids,
            cut_masks=self.config.published.cut_masks,
            first=opened.options.first,
            max_pixels=self.stage.data.max_pixels,
        )

    def features(self) -> Features:
        """SAM's pixels or cached maps, asked for once."""
        if self._features is None:
            self._features = features_for(self.stage, self.context, self.split)
        return self._features

    def wordings(self) -> Mapping[str, tuple[str, ...]]:
        """The banks, for whoever lists them."""
        return self.banks if self.stage.data.templates else {name: bank.wordings for name, bank in BANKS.items()}


def build_train(stage: Stage, context: DataContext) -> Datasets:
    """Every source the run draws from.

    Raises:
        DataError: a format cannot be read, or a file is damaged.
        MissingDataError: an annotation file or image folder is not there.
        RecipeError: an option, a template or a model setting does not exist, or the tokenizer lacks tokens.
    """
    reader = Reader(stage, context, "train")
    entries = chosen(stage.data.sources, context)
    sources = {name: reader.source(reader.open(name, entry, LEARNS)) for name, entry in entries.items()}
    collate = reader.config.collator(reader.processor)
    return Datasets(sources, dict.fromkeys(sources, collate), wordings=reader.wordings())


def build_val(stage: Stage, context: DataContext) -> Datasets:
    """The validation sets: those named by --sources, else those of the chosen sources, else all.

    Raises:
        DataError: as `build_train`.
        PluginError: captions are to be scored and the extra is not installed.
    """
    reader = Reader(stage, context, "val")
    sources: dict[str, DataSource] = {}
    collate: dict[str, Collate] = {}
    evaluators: dict[str, Callable[[], Evaluator]] = {}
    for name, entry in chosen_validations(stage, context, suffixed=True).items():
        opened = reader.open(name, entry, MEASURES)
        sources[name], evaluators[name], given = _validation(reader, opened)
        layout: dict[str, Any] = {"given": True} if given else {"padding_side": "left"}
        collate[name] = reader.config.collator(reader.processor, **layout)
    return Datasets(sources, collate, evaluators)


def _validation(reader: Reader, opened: Opened[Options]) -> tuple[DataSource, Callable[[], Evaluator], bool]:
    """Source and evaluator of a validation set, and whether its answers are given."""
    options, name, limit = opened.options, opened.format.name, reader.stage.data.max_pixels
    if name in (GCG_TRUTH, REGION_TRUTH):
        grounded, files = name == GCG_TRUTH, opened.files
        asked = gcg_questions(files[0], opened.images) if grounded else region_questions(files[0])
        asking = Asking(reader.processor, reader.config.sam.image_size)
        asked_source = AskedSource(
            name=opened.name,
            asked=asked[: options.first],
            images=opened.images,
            request=options.request or (REQUEST if grounded else REGION_REQUEST),
            ask=partial(asking.evaluation, grounded),
            max_new_tokens=options.max_new_tokens,
            max_pixels=limit,
        )
        if not grounded:
            return asked_source, partial(CaptionEvaluator, {one.id: one.answers for one in asked}), False
        words, captioned = options.alike == "words", options.captioned
        return asked_source, partial(GroundedCaptionEvaluator, *files, words=words, captioned=captioned), False
    if opened.format.content == "questions" or (opened.format.content == "conversations" and name != "COCO captions"):
        longest = options.max_new_tokens
        source = open_questions(opened, reader.processor, suffix="", max_new_tokens=longest, max_pixels=limit)
        return source, partial(AnswerEvaluator, source.questions), False
    found = reader.source(opened)
    assert isinstance(found, GroundedSource)
    return found, partial(GivenEvaluator, found.features is not None), True


def _manner(opened: Opened[Options]) -> manners.Manner:
    """How an entry's records become conversations."""
    known = manners.MANNERS.get(opened.format.name)
    if known is not None:
        wanted = opened.options.intro
        intros: dict[bool, manners.Manner] = {True: "region_intro", False: "region"}
        return known.manner if wanted is None or known.task != "region_caption" else intros[wanted]
    task = opened.options.task or next(task for task in LEARNS if task in opened.tasks)
    by_task: dict[str, manners.Manner] = {"refer": "refer", "region_caption": "region", "grounded_caption": "gcg"}
    return by_task.get(task, "segment")


SELECTS: dict[manners.Manner, Select] = {
    "refer": "expressions",
    "region": "phrases",
    "region_intro": "phrases",
    "parts": "annotations",
    "named_parts": "annotations",
}
"""What of an image with objects is spoken of; in other manners its classes."""
