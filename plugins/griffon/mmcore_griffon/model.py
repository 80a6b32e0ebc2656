"""Griffon: a picture at high resolution and words in, words out; boxes are words too.

    image, squashed -> CLIP tower -> projector -> +----------------+
                                                  | spliced tokens | -> language model -> text loss, answers
    crop of a visual prompt -> region tokenizer ->|                |
    words --------------------------------------> +----------------+

Tower, projector, language model and answers are the core's (`mmcore.language.llava.model`); here stands what a visual
prompt becomes. Gemma 2's factor on embeddings reaches image and region tokens too, as in the published weights
(`mmcore.language.splice.embed`).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from mmcore import Stage
from mmcore.contract.values import CROP, Prediction, Turn
from mmcore.language.batch import ConversationBatch
from mmcore.language.confidence import Marks, confidence
from mmcore.language.llava.answer import said
from mmcore.language.llava.model import LlavaModel
from mmcore.language.llava.names import Part
from mmcore.language.models import plain_config
from mmcore.weights.maps import WeightMap
from torch import Tensor

from mmcore_griffon import answers, weights
from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.export import write_files
from mmcore_griffon.prompts import conversation, samples
from mmcore_griffon.region_tokenizer import RegionTokenizer
from mmcore_griffon.tokenizer import MADE, PAD

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext


class Griffon(LlavaModel):
    """Griffon v1, v2 and G.

    Args:
        config: sizes and switches.
        loss_weights: factor of each loss by name; there is one, "text".
    """

    config: GriffonConfig
    TOKENIZERS: ClassVar = MADE
    PAD: ClassVar = PAD
    NEEDED: ClassVar = ("tower.",)

    def __init__(self, config: GriffonConfig, loss_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(config, loss_weights)
        tower = config.region_tower
        self.region = RegionTokenizer(tower, config.width) if tower is not None else None

    def spliced(self, batch: ConversationBatch) -> dict[str, Tensor]:
        """Rows of every image, and one token of every visual prompt."""
        rows = super().spliced(batch)
        if self.region is not None and (CROP in batch.other_images or self.is_shared):
            none = batch.images.new_zeros(0, 3, self.config.region_size, self.config.region_size)
            rows["region"] = self.region(batch.other_images.get(CROP, none))
        return rows

    @torch.no_grad()
    def predict(self, batch: ConversationBatch) -> list[Prediction]:
        """The answer to each prompt, with the boxes that are written in it and how sure the model was of each."""
        found, texts = said(self.language, self.config, self.tokenizer, batch, self.spliced(batch))
        rows = zip(found.ids, found.probabilities, texts, batch.original_sizes, strict=True)
        read = [
            answers.read(text, size, confidence(ids, sure, self._marks) if self._marks else ())
            for ids, sure, text, size in rows
        ]
        return [
            Prediction(image_id=image, size=size, record_id=record, **fields)
            for image, record, size, fields in zip(
                batch.image_ids, batch.record_ids, batch.original_sizes, read, strict=True
            )
        ]

    @cached_property
    def _marks(self) -> Marks | None:
        return answers.marks(self.tokenizer.get_vocab())

    def attach(self, stage: Stage, context: "DataContext", folder: Path | None = None) -> None:
        """Where the tokenizer is looked for."""
        super().attach(stage, context, folder)
        self.__dict__.pop("_marks", None)

    # Weights

    def upstream_names(self) -> WeightMap:
        """The map between published Griffon names and this model's."""
        return weights.upstream(self.config)

    def parts_of(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Part]:
        """A CLIP file with as many positions as the region tokenizer's encoder is that, any other the main tower."""
        return weights.parts(self.config, tensors)

    def published_parts(self, tensors: Mapping[str, Tensor]) -> WeightMap:
        """The published map for tensors of another stage: a region tokenizer or tower that they lack stays new."""
        return weights.upstream(self.config, tensors)

    def plain_config(self) -> dict[str, Any]:
        """The language model's own `config.json`: plain transformers opens that part of an export."""
        return plain_config(self.config.language)

    def export_files(self, folder: Path, format: str) -> None:
        """Configuration and tokenizer beside published weights."""
        write_files(self.config, self.tokenizer, folder, format)

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """Parts of both towers behind what is read."""
        region = () if self.region is None else tuple(f"region.encoder.{part}" for part in self.region.encoder.unread())
        return (*super().idle_parameters(stage), *region)

    # Loose pictures

    def prepare(
        self,
        images: Sequence[np.ndarray],
        *,
        names: Sequence[str] | None = None,
        prompt: str | None = None,
        example: np.ndarray | None = None,
    ) -> ConversationBatch:
        """One question about each (height, width, 3) uint8 RGB picture: by classes, in words, or by an example.

        Raises:
            UsageError: the prompt speaks of a region and nothing is shown.
        """
        processor = self.config.processor(self.tokenizer)
        asked = samples(self.config, processor, images, names=names, prompt=prompt, example=example)
        return self.config.collator(processor, padding_side="left")(asked, 0)

    def converse(
        self, image: np.ndarray | None, turns: Sequence[Turn], *, example: np.ndarray | None = None
    ) -> ConversationBatch:
        """The next answer of a conversation about a (height, width, 3) uint8 RGB picture, or in words alone.

        Args:
            image: what is spoken of.
            turns: what was said, the question last.
            example: (height, width, 3) uint8 RGB, something in the picture, shown; one a conversation.

        Raises:
            UsageError: a region is spoken of and none is shown, or several are.
        """
        processor = self.config.processor(self.tokenizer)
        asked = conversation(self.config, processor, image, turns, example)
        return self.config.collator(processor, padding_side="left")([asked], 0)
