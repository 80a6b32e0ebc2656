"""Vision tower, projector and language model: what LLaVA and its descendants are built on.

    image -> tower -> projector -> +----------------+
                                   | spliced tokens | -> language model -> text loss, answers
    words -----------------------> +----------------+

A family inherits `LlavaModel` and writes what makes it itself: what else stands among the words (`spliced`), what else
is learned (`forward`), and its published names. Samples without an image cost the vision parts nothing, but where
several processes train together every process enters every part, with no rows if need be: sharded engines gather
weights call by call.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcore.base.distributed import is_distributed
from mmcore.contract.model import Model
from mmcore.contract.values import Loss, Losses, Prediction, Turn
from mmcore.errors import UsageError, WeightsError, suggest
from mmcore.language import models
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation_templates import template
from mmcore.language.llava import answer
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.llava.names import COMPUTED, PARTS, WHOLE, Part, kind, llava_rules, only, read_published
from mmcore.language.published import check_numbers, with_all_words
from mmcore.language.tokenizer_files import FOLDER, keep_tokenizer, open_tokenizer
from mmcore.vision.frozen import is_frozen
from mmcore.vision.projectors import build_projector
from mmcore.vision.towers import build_tower
from mmcore.weights.fill import fill
from mmcore.weights.maps import LoadReport, WeightMap

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext
    from mmcore.contract.recipe import Stage


FORMATS = ("upstream",)


class LlavaModel(Model):
    """A language model that sees.

    Args:
        config: sizes and switches.
        loss_weights: factor of each loss by name; those not named have the family's.
    """

    PARTS: ClassVar[Mapping[str, Part]] = PARTS
    """Published files of single parts that the family starts from."""
    NEEDED: ClassVar[tuple[str, ...]] = ()
    """Parts that a file of the whole model may lack where another start fills them, such as "tower."."""
    TOKENIZERS: ClassVar[Mapping[str, Callable[[], Path]]] = {}
    """Tokenizers that are made instead of found, for tiny variants: name -> what writes the folder."""

    PAD: ClassVar[Literal["own", "unknown"]] = "own"
    """What the tokenizer pads with (`mmcore.language.tokens.load_tokenizer`)."""

    def __init__(self, config: LlavaConfig, loss_weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.config = config
        self._places: tuple[Path, ...] = ()
        own = self.own_losses()
        self.loss_weights = own | {name: weight for name, weight in (loss_weights or {}).items() if name in own}
        self.tower = build_tower(config.tower).requires_grad_(False)
        self.projector = build_projector(config.projector, config.tower.channels, config.width)
        self.language = models.build(config.language, config.attention)

    def own_losses(self) -> dict[str, float]:
        """The losses there are, and their factors where the recipe names none."""
        return {"text": 1.0}

    @property
    def max_length(self) -> int:
        """Longest sequence in training, tokens."""
        return self.config.max_length

    # Training

    def forward(self, batch: ConversationBatch) -> Losses:
        """Text loss per learned token."""
        embeds = self.language.embed(batch.sequences, self.spliced(batch))
        hidden = self.language(embeds, batch.sequences)
        return Losses(text=self.text_loss(hidden, batch))

    def text_loss(self, hidden: models.Hidden, batch: ConversationBatch) -> Loss:
        """The language model's own loss, weighted."""
        return Loss(self.loss_weights["text"] * self.language.token_loss(hidden.last, batch.sequences), "tokens")

    def spliced(self, batch: ConversationBatch) -> dict[str, Float[Tensor, "images rows width"]]:
        """Rows by kind that stand among the words, in the order of the batch's images."""
        return {"image": self.see(batch.images)} if self.sees(batch) else {}

    def see(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images rows width"]:
        """Projected rows of each image; a frozen tower keeps nothing for the backward pass."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.tower)):
            seen = self.tower(images)
        return self.projector(seen)

    def sees(self, batch: ConversationBatch) -> bool:
        """Whether the vision parts run: there are images, or other processes may have some."""
        return len(batch.images) > 0 or self.is_shared

    @property
    def is_shared(self) -> bool:
        """Whether other processes train the same model at the same time."""
        return self.training and is_distributed()

    # Answers

    @torch.no_grad()
    def predict(self, batch: ConversationBatch) -> list[Prediction]:
        """The answer to each prompt of the batch."""
        return answer.answer(self.language, self.config, self.tokenizer, batch, self.spliced(batch))

    def prepare(
        self, images: Sequence[np.ndarray], *, names: Sequence[str] | None = None, prompt: str | None = None
    ) -> ConversationBatch:
        """One question about each (height, width, 3) uint8 RGB picture.

        Raises:
            UsageError: names are given.
        """
        if names is not None:
            raise UsageError(
                f"{self.config.FAMILY} answers questions and finds no objects by name",
                where="--names",
                do="use --prompt",
            )
        processor = self.config.processor(self.tokenizer)
        collate = self.config.collator(processor, padding_side="left")
        return collate(answer.prompts(processor, images, prompt), 0)

    def converse(self, image: np.ndarray | None, turns: Sequence[Turn]) -> ConversationBatch:
        """The next answer of a conversation about a (height, width, 3) uint8 RGB picture, or in words alone."""
        processor = self.config.processor(self.tokenizer)
        collate = self.config.collator(processor, padding_side="left")
        return collate([answer.conversation(processor, image, turns)], 0)

    @cached_property
    def tokenizer(self) -> Any:
        """The variant's tokenizer, opened when text is first needed; may be set."""
        named, written = self.config.tokenizer, template(self.config.template)
        return open_tokenizer(named, written, self._places, self.TOKENIZERS, pad=self.PAD)

    def attach(self, stage: "Stage", context: "DataContext", folder: Path | None = None) -> None:
        """Where the tokenizer is looked for; it is opened when first needed.

        Args:
            stage: of the run.
            context: where the data lie.
            folder: of the run or export, which keeps its own tokenizer.
        """
        del stage
        self._places = (*([folder] if folder else []), context.root)
        self.__dict__.pop("tokenizer", None)

    def keep_files(self, folder: Path) -> None:
        """Copy the tokenizer into a run's folder: answers must not depend on where the data were."""
        keep_tokenizer(self.tokenizer, folder / FOLDER)

    # Weights

    def published(self, format: str = "upstream") -> WeightMap:
        """The family's published names (`upstream_names`).

        Raises:
            WeightsError: the format is not known.
        """
        if format not in FORMATS:
            raise unknown_format(self.config.FAMILY, format)
        return self.upstream_names()

    def upstream_names(self) -> WeightMap:
        """LLaVA's published names and ours; a family with parts of its own maps those too."""
        return WeightMap(
            rules=llava_rules(self.config.tower), ignored=COMPUTED, label=f"published {self.config.FAMILY} checkpoint"
        )

    def initialise(self, path: str | Path) -> LoadReport:
        """Fill from a published file or folder, told apart by its names; several calls fill one part each.

        A file of the whole model (of another stage too: what it lacks stays new where the family says so), or of one of
        `PARTS`; under LLaVA's published names or those that any version of transformers writes.

        Raises:
            MissingDataError: there is no such file.
            WeightsError: it is none of these, does not fit, or its configuration says other numbers.
        """
        return self._fill(path, read_published(path))

    def initialise_part(self, path: Path, part: str) -> LoadReport:
        """Fill `language`, `tower` or `projector` from a file of that part, or of a whole model; the rest is left.

        Raises:
            MissingDataError, WeightsError: as `initialise`, or the file has nothing of the part.
        """
        return self._fill(path, only(part, read_published(path), path))

    def parts_of(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Part]:
        """What a file may be a part of; a family with two towers looks at its tensors to say which one it is."""
        del tensors
        return self.PARTS

    def _fill(self, path: str | Path, tensors: Mapping[str, Tensor]) -> LoadReport:
        own, parts = self.state_dict(), self.parts_of(tensors)
        found = kind(tensors, parts)
        part = parts.get(found)
        if part and not any(name.startswith(f"{part.fills}.") for name in own):
            raise WeightsError(f"this model has no use for a {part.label}: it has no {part.fills}", where=path)
        if found in (WHOLE, "language"):
            check_numbers(path, self.language)
            tensors = with_all_words(tensors, self.language.embed_tokens.num_embeddings)
        names = part.map(own) if part else self.published_parts(tensors)
        state, report = names.to_ours(tensors, own)
        report.needed = [] if part else [name for name in report.new if name.startswith(self.NEEDED)]
        fill(self, state)
        return report

    # What the core asks

    def checkpoint_blocks(self) -> Sequence[nn.Module]:
        """The language model's layers."""
        return self.language.layers

    def lora_modules(self) -> Sequence[nn.Module]:
        """The language model without its output layer; the tower's layers have the same names."""
        return (self.language.model,)

    def idle_parameters(self, stage: "Stage") -> tuple[str, ...]:
        """Parts of the tower behind what is read; published files have them."""
        del stage
        return tuple(f"tower.{part}" for part in self.tower.unread())


def unknown_format(family: str, format: str) -> WeightsError:
    """What to raise where a family is asked for names it does not know."""
    return WeightsError(
        f"{family} has no weight format {format!r}",
        known=FORMATS,
        do=suggest(format, FORMATS, "choose one of these"),
    )
