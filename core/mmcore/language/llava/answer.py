"""Answers to questions about pictures: prompts in, greedy text out, as in the published evaluations."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from mmcore.contract.values import MAIN, ConversationSample, Draw, Encoded, Prediction, Turn
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation_templates import template
from mmcore.language.generate import Generated, Stop, end_ids, generate
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.models import LanguageModel
from mmcore.language.processor import Processor
from mmcore.language.streamed import Streamed

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
    _, texts = said(language, config, tokenizer, batch, rows)
    return [
        Prediction(image_id=image, size=size, record_id=record, text=text)
        for image, record, size, text in zip(
            batch.image_ids, batch.record_ids, batch.original_sizes, texts, strict=True
        )
    ]


def said(
    language: LanguageModel,
    config: LlavaConfig,
    tokenizer: Any,
    batch: ConversationBatch,
    rows: Mapping[str, Tensor],
) -> tuple[Generated, list[str]]:
    """The same as `answer` with the ids and their probabilities, for families that read more out of them."""
    found = generate(
        language,
        language.embed(batch.sequences, rows),
        batch.sequences,
        max_new_tokens=batch.max_new_tokens or MAX_NEW_TOKENS,
        stop=Stop(ids=tuple(end_ids(config.language, template(config.template), tokenizer))),
        # Rows of the matrix that are no word; published code cuts them off when it loads a model.
        forbid=[*range(len(tokenizer), language.embed_tokens.num_embeddings), *config.suppressed],
        padding=int(tokenizer.pad_token_id or 0),
        hear=None if batch.hear is None else Streamed(batch.hear, partial(tokenizer.decode, skip_special_tokens=True)),
    )
    texts = tokenizer.batch_decode(found.ids, skip_special_tokens=True)
    return found, [text.strip() for text in texts]


def prompts(processor: Processor, images: Sequence[np.ndarray], text: str | None = None) -> list[ConversationSample]:
    """One question about each picture, prepared as training pictures are.

    Args:
        processor: of the model.
        images: (height, width, 3) uint8 RGB, each of its own size.
        text: the question; a request to describe the picture when None.
    """
    encoded, turns = processor.prompt(text or REQUEST, has_image=True)
    return [_sample(processor, image, encoded, turns, number) for number, image in enumerate(images)]


def conversation(processor: Processor, image: np.ndarray | None, turns: Sequence[Turn]) -> ConversationSample:
    """A conversation whose last question is open, about a picture or in words alone.

    Args:
        processor: of the model.
        image: (height, width, 3) uint8 RGB.
        turns: the user first, the question last.
    """
    encoded, whole = processor.dialogue(turns, has_image=image is not None)
    return _sample(processor, image, encoded, whole, 0)


def _sample(
    processor: Processor, image: np.ndarray | None, encoded: Encoded, turns: tuple[Turn, ...], number: int
) -> ConversationSample:
    return ConversationSample(
        encoded=encoded,
        turns=turns,
        images={} if image is None else {MAIN: (processor.tower(image),)},
        draw=Draw("prompt", number, 0),
        image_id=None if image is None else number,
        original_size=(0, 0) if image is None else (image.shape[0], image.shape[1]),
    )
