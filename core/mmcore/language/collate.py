"""Samples to one `ConversationBatch`: spliced sequences planned, images and features stacked, everything counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmcore.contract.protocols import Collator
from mmcore.contract.values import MAIN, ConversationSample
from mmcore.language.batch import ConversationBatch
from mmcore.language.sequence import Sequences
from mmcore.language.splice import lay_out
from mmcore.vision.clip_images import ClipImages


@dataclass(frozen=True)
class ConversationCollator(Collator):
    """Makes batches of samples of one source.

    Args:
        expansion: what placeholders become in the sequence, for `mmcore.language.splice.lay_out`.
        image_size: side of the tower's images, pixels.
        max_length: longest sequence after expansion, tokens.
        padding_side: right for training; left where answers are generated.
        pack_to: length of rows that hold several samples; None gives every sample its own row.
        tokenizer: for pictures of a batch; training does not need it.
        pixels: how a picture became the tower's, to draw regions on it; training does not need it.
        watch: name -> vocabulary id whose positions the model wants to know.
    """

    expansion: Mapping[int, tuple[tuple[str, int], ...]]
    image_size: int
    max_length: int
    padding_side: Literal["left", "right"] = "right"
    pack_to: int | None = None
    tokenizer: Any = None
    pixels: ClipImages | None = None
    watch: Mapping[str, int] | None = None

    def __call__(self, samples: Sequence[ConversationSample], seed: int) -> ConversationBatch:
        """One batch of samples, in their order; nothing is drawn."""
        return ConversationBatch(**self.fields(samples))

    def fields(self, samples: Sequence[ConversationSample]) -> dict[str, Any]:
        """Every field of the batch; a family with a batch of its own adds to them."""
        sequences = lay_out(
            [sample.encoded for sample in samples],
            self.expansion,
            max_length=self.max_length,
            padding_side=self.padding_side,
            pack_to=self.pack_to,
            watch=self.watch,
        )
        pictured = [number for number, sample in enumerate(samples) for _ in sample.images.get(MAIN, ())]
        return {
            "source": samples[0].draw.source,
            "draws": tuple(sample.draw for sample in samples),
            "normalisers": {"tokens": float(len(sequences.targets)), "samples": float(len(samples))},
            "statistics": {"images": float(len(pictured)), **_room(samples, sequences)},
            "sequences": sequences,
            "images": self._images(samples),
            "image_samples": torch.tensor(pictured, dtype=torch.int64),
            "image_ids": tuple(sample.image_id for sample in samples),
            "record_ids": tuple(sample.record_id for sample in samples),
            "original_sizes": tuple(sample.original_size for sample in samples),
            "turns": tuple(sample.turns for sample in samples),
            "regions": tuple(sample.regions for sample in samples),
            "phrases": tuple(sample.phrases for sample in samples),
            "prompts": tuple(sample.prompts for sample in samples),
            "object_counts": tuple(sample.count for sample in samples),
            "other_images": _stacked([_others(sample) for sample in samples]),
            "features": _stacked([sample.features for sample in samples]),
            "max_new_tokens": max((sample.max_new_tokens or 0 for sample in samples), default=0) or None,
        }

    def text_of(self, word: int) -> str:
        """What a vocabulary id says, for pictures."""
        if self.tokenizer is None:
            return str(word)
        text = self.tokenizer.decode([word])
        # SentencePiece writes the blank before a word into its token, and decoding a lone token drops it.
        glued = self.tokenizer.convert_ids_to_tokens(word).startswith("▁") and not text.startswith(" ")
        return f" {text}" if glued else text

    def _images(self, samples: Sequence[ConversationSample]) -> Tensor:
        images = [image for sample in samples for image in sample.images.get(MAIN, ())]
        return torch.stack(images) if images else torch.zeros(0, 3, self.image_size, self.image_size)


def _room(samples: Sequence[ConversationSample], sequences: Sequences) -> dict[str, float]:
    """Positions that are used, those that are padding, and samples that lost some to the longest length."""
    rows, length = sequences.shape
    used = sum(location.length for location in sequences.locations)
    cut = [sample.encoded.cut + lost for sample, lost in zip(samples, sequences.cut, strict=True)]
    return {
        "positions": float(used),
        "padding": float(rows * length - used),
        "cut": float(sum(lost > 0 for lost in cut)),
    }


def _others(sample: ConversationSample) -> dict[str, Tensor]:
    """The picture as every network but the tower takes it."""
    return {role: image for role, (image, *_) in sample.images.items() if role != MAIN}


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What every picture of the batch has, name by name; nothing when none has any."""
    given = [part for part in parts if part]
    return {name: torch.stack([part[name] for part in given]) for name in (given[0] if given else ())}
