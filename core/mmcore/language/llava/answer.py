"""Answers to questions about pictures: prompts in, greedy text out, as in the published evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmcore.contract.values import MAIN, ConversationSample, Draw, Prediction
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation_templates import template
from mmcore.language.generate import Stop, end_ids, generate
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.models import LanguageModel
from mmcore.language.processor import Processor

MAX_NEW_TOKENS = 128
"""Longest answer where nobody says another; LLaVA's evaluation scripts."""
REQUEST = "Describe this image in detail."
"""Asked when nobody asks anything."""


def answer(
    language: LanguageModel,
    config: LlavaConfig,
    tokenizer: Any,
    batch: ConversationBatch,
    rows: Mapping[str, Tensor],
) -> list[Prediction]:
    """What the model says after each prompt of the batch, special tokens left out and stripped.

    Args:
        language: in evaluation mode.
        config: tells the template and what ends an answer.
        tokenizer: of the language model.
        batch: prompts that end where the answer begins, one a row, padded on either side.
        rows: kind -> (images, rows, width), what stands among the words.
    """
    found = generate(
        language,
        language.embed(batch.sequences, rows),
        batch.sequences,
        max_new_tokens=batch.max_new_tokens or MAX_NEW_TOKENS,
        stop=Stop(ids=tuple(end_ids(config.language, template(config.template), tokenizer))),
        # Rows of the matrix that are no word; published code cuts them off when it loads a model.
        forbid=[*range(len(tokenizer), language.embed_tokens.num_embeddings), *config.suppressed],
        padding=int(tokenizer.pad_token_id or 0),
    )
    texts = tokenizer.batch_decode(found.ids, skip_special_tokens=True)
    return [
        Prediction(image_id=image, size=size, record_id=record, text=text.strip())
        for image, record, size, text in zip(
            batch.image_ids, batch.record_ids, batch.original_sizes, texts, strict=True
        )
    ]


def prompts(processor: Processor, images: Sequence[np.ndarray], text: str | None = None) -> list[ConversationSample]:
    """One question about each picture, prepared as training pictures are.

    Args:
        processor: of the model.
        images: (height, width, 3) uint8 RGB, each of its own size.
        text: the question; a request to describe the picture when None.
    """
    encoded, turns = processor.prompt(text or REQUEST, has_image=True)
    return [
        ConversationSample(
            encoded=encoded,
            turns=turns,
            images={MAIN: (processor.tower(image),)},
            draw=Draw("prompt", number, 0),
            image_id=number,
            original_size=(image.shape[0], image.shape[1]),
        )
        for number, image in enumerate(images)
    ]
