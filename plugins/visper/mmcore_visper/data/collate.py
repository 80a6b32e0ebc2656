"""Samples to one `VisperBatch`: the plan of the spliced sequences, images and targets stacked, everything counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmcore.contract.values import MAIN, ConversationSample
from mmcore.language.splice import lay_out
from mmcore.show.conversation import as_picture, draw_conversation, tokens_of
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from PIL import Image
from torch import Tensor

from mmcore_visper.batch import VisperBatch
from mmcore_visper.config import VisperConfig


@dataclass(frozen=True)
class Collate:
    """Makes batches of samples of one source.

    Args:
        config: says what an image becomes in the sequence.
        max_length: longest sequence after expansion, tokens.
        padding_side: right for training; left where answers are generated.
        pack_to: length of rows that hold several samples; None gives every sample its own row.
        tokenizer: for pictures of a batch; training does not need it.
    """

    config: VisperConfig
    max_length: int
    padding_side: Literal["left", "right"] = "right"
    pack_to: int | None = None
    tokenizer: Any = None

    def __call__(self, samples: Sequence[ConversationSample], seed: int) -> VisperBatch:
        """One batch of samples, in their order; nothing is drawn."""
        sequences = lay_out(
            [sample.encoded for sample in samples],
            self.config.expansion,
            max_length=self.max_length,
            padding_side=self.padding_side,
            pack_to=self.pack_to,
        )
        rows, length = sequences.shape
        used = sum(location.length for location in sequences.locations)
        pictured = [number for number, sample in enumerate(samples) if MAIN in sample.images]
        cut = [sample.encoded.cut + lost for sample, lost in zip(samples, sequences.cut, strict=True)]
        return VisperBatch(
            source=samples[0].draw.source,
            draws=tuple(sample.draw for sample in samples),
            normalisers={"tokens": float(len(sequences.targets)), "samples": float(len(samples))},
            statistics={
                "images": float(len(pictured)),
                "positions": float(used),
                "padding": float(rows * length - used),
                "cut": float(sum(lost > 0 for lost in cut)),
            },
            sequences=sequences,
            images=self._images(samples),
            image_samples=torch.tensor(pictured, dtype=torch.int64),
            image_ids=tuple(sample.image_id for sample in samples),
            record_ids=tuple(sample.record_id for sample in samples),
            original_sizes=tuple(sample.original_size for sample in samples),
            turns=tuple(sample.turns for sample in samples),
            targets=_stacked([sample.features for sample in samples]),
            teacher_inputs=_stacked([_teachers_images(sample) for sample in samples]),
            max_new_tokens=max((sample.max_new_tokens or 0 for sample in samples), default=0) or None,
        )

    def draw(self, batch: VisperBatch) -> list[Image.Image]:
        """Every sample of a batch as the network gets it: the picture, and the tokens with the learned ones marked."""
        places = {sample: row for row, sample in enumerate(batch.image_samples.tolist())}
        pictures = []
        for sample, draw in enumerate(batch.draws):
            tokens = tokens_of(batch.sequences, sample, self._text_of)
            image, size = None, "text"
            if sample in places:
                image = as_picture(batch.images[places[sample]].numpy(), CLIP_MEAN, CLIP_STD)
                height, width = batch.original_sizes[sample]
                size = f"{width}x{height} became {image.width}x{image.height}"
            facts = f"{batch.source} record {draw.position}, id {batch.record_ids[sample]}: {size}"
            pictures.append(draw_conversation(image, tokens, facts))
        return pictures

    def _text_of(self, word: int) -> str:
        if self.tokenizer is None:
            return str(word)
        text = self.tokenizer.decode([word])
        # SentencePiece writes the blank before a word into its token, and decoding a lone token drops it.
        glued = self.tokenizer.convert_ids_to_tokens(word).startswith("▁") and not text.startswith(" ")
        return f" {text}" if glued else text

    def _images(self, samples: Sequence[ConversationSample]) -> Tensor:
        images = [image for sample in samples for image in sample.images.get(MAIN, ())]
        side = self.config.image_size
        return torch.stack(images) if images else torch.zeros(0, 3, side, side)


def _teachers_images(sample: ConversationSample) -> dict[str, Tensor]:
    """The picture as each live teacher takes it."""
    return {role: image for role, (image, *_) in sample.images.items() if role != MAIN}


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What every picture of the batch has, task by task; nothing when none has any."""
    given = [part for part in parts if part]
    return {task: torch.stack([part[task] for part in given]) for task in (given[0] if given else ())}
