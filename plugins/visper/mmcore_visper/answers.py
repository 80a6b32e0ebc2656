"""Answers to questions about pictures: prompts in, greedy text out, as in the published evaluations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmcore.contract.values import MAIN, ConversationSample, Draw, Prediction
from mmcore.errors import UsageError
from mmcore.language.batch import ConversationBatch
from mmcore.language.collate import ConversationCollator
from mmcore.language.conversation import template
from mmcore.language.generate import Stop, end_ids, generate
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.towers import image_library

from mmcore_visper.data.sources import Reading

if TYPE_CHECKING:
    from mmcore_visper.model import Visper

MAX_NEW_TOKENS = 128
"""Longest answer of the published evaluation scripts."""
REQUEST = "Describe this image in detail."
"""Asked when nobody asks anything."""


def answer(model: "Visper", batch: ConversationBatch) -> list[Prediction]:
    """What the model says after each prompt of the batch, special tokens left out and stripped.

    Args:
        model: in evaluation mode.
        batch: prompts that end where the answer begins, one a row, padded on either side.
    """
    features, _ = model.features(batch)
    tokenizer, language = model.tokenizer, model.language
    found = generate(
        language,
        language.embed(batch.sequences, features),
        batch.sequences,
        max_new_tokens=batch.max_new_tokens or MAX_NEW_TOKENS,
        stop=Stop(ids=tuple(end_ids(model.config.language, template(model.config.template), tokenizer))),
        # Rows of the matrix that are no word; the published code cuts them off when it loads a model.
        forbid=range(len(tokenizer), language.embed_tokens.num_embeddings),
        padding=int(tokenizer.pad_token_id or 0),
    )
    texts = tokenizer.batch_decode(found.ids, skip_special_tokens=True)
    return [
        Prediction(image_id=image, size=size, record_id=record, text=text.strip())
        for image, record, size, text in zip(
            batch.image_ids, batch.record_ids, batch.original_sizes, texts, strict=True
        )
    ]


def prompts(
    model: "Visper", images: Sequence[np.ndarray], *, names: Sequence[str] | None = None, prompt: str | None = None
) -> ConversationBatch:
    """One question about each picture, prepared as the stage's training pictures were.

    Args:
        model: tells template, tokenizer and sizes.
        images: (height, width, 3) uint8 RGB.
        names: refused; a language model is asked in words.
        prompt: the question; a request to describe the picture when None.

    Raises:
        UsageError: names are given.
    """
    if names is not None:
        raise UsageError("VisPer-LM answers questions and finds no objects by name", where="--names", do="use --prompt")
    reading = reading_of(model)
    encoded, turns = reading.prompt(prompt or REQUEST, has_image=True)
    samples = [
        ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (reading.tower(image),)},
            draw=Draw("prompt", number, 0),
            image_id=number,
            original_size=(image.shape[0], image.shape[1]),
        )
        for number, image in enumerate(images)
    ]
    config = model.config
    collate = ConversationCollator(config.expansion, config.image_size, config.max_length, padding_side="left")
    return collate(samples, 0)


def reading_of(model: "Visper") -> Reading:
    """How a model's pictures and texts are read."""
    config = model.config
    return Reading(
        template=template(config.template),
        tokenizer=model.tokenizer,
        pixels=ClipImages(config.image_size, config.image_aspect, library=image_library(config.tower)),
        max_length=config.max_length,
        image_rows=sum(rows for _, rows in next(iter(config.expansion.values()))),
    )


def similarities(predictions: Sequence[torch.Tensor], batch: ConversationBatch) -> list[Prediction]:
    """Each image with its measure `cosine`, one number a layer, from one (images,) tensor per layer."""
    rows = torch.stack(list(predictions), 1).float().tolist()
    chosen = batch.image_samples.tolist()
    return [
        Prediction(
            image_id=batch.image_ids[sample],
            size=batch.original_sizes[sample],
            record_id=batch.record_ids[sample],
            measures={"cosine": tuple(row)},
        )
        for sample, row in zip(chosen, rows, strict=True)
    ]
