"""Questions about loose pictures: by classes, by words, or by showing an example."""

from collections.abc import Sequence

import numpy as np
import torch
from mmcore.contract.values import CROP, MAIN, ConversationSample, Draw, Encoded, Turn
from mmcore.errors import UsageError
from mmcore.language.conversation import MARKER
from mmcore.language.processor import Processor

from mmcore_griffon.config import REGION_MARKER, GriffonConfig
from mmcore_griffon.data.wordings import BARE_FORMAT, NAMED_FORMAT, banks

REQUEST = "Describe this picture."
"""Asked when nobody asks anything."""
MAX_NEW_TOKENS = 3072
"""Longest answer (scripts of run_griffon.py), over a hundred boxes; at most what the model learned to read."""


def samples(
    config: GriffonConfig,
    processor: Processor,
    images: Sequence[np.ndarray],
    *,
    names: Sequence[str] | None = None,
    prompt: str | None = None,
    example: np.ndarray | None = None,
) -> list[ConversationSample]:
    """One question about each picture, prepared as training pictures are.

    Args:
        config: says how an example is seen.
        processor: how text and pictures are read.
        images: (height, width, 3) uint8 RGB, each of its own size.
        names: classes to find.
        prompt: a question, or with an example what is asked about `<region>`.
        example: (height, width, 3) uint8 RGB, what to find more of.

    Raises:
        UsageError: the prompt speaks of a region and nothing is shown.
    """
    text = question(names, prompt, shown=example is not None)
    _check_regions(text.count(REGION_MARKER), example)
    asked, _ = processor.exchange(text, "-")
    turns = (asked, Turn("assistant", ""))
    encoded = processor.asked(turns)
    return [_sample(config, processor, image, encoded, turns, example, n) for n, image in enumerate(images)]


def conversation(
    config: GriffonConfig,
    processor: Processor,
    image: np.ndarray | None,
    said: Sequence[Turn],
    example: np.ndarray | None = None,
) -> ConversationSample:
    """A conversation whose last question is open, as `samples` asks the first.

    An example stands where a question says `<region>`, else behind the first question; published weights know one.

    Raises:
        UsageError: there is no picture to look for an example in, a region is spoken of and none is shown, or several
            are.
    """
    spoken = sum(turn.text.count(REGION_MARKER) for turn in said if turn.role == "user")
    if example is not None and image is None:
        raise UsageError("an example needs a picture", where="--example", do="give the picture in which to look for it")
    _check_regions(spoken, example)
    # A model may answer with a marker, which is no picture when it is read again.
    first, *rest = (
        turn if turn.role == "user" else Turn(turn.role, turn.text.replace(MARKER, "").replace(REGION_MARKER, ""))
        for turn in said
    )
    if example is not None and not spoken:
        first = Turn(first.role, f"{first.text} {REGION_MARKER}")
    encoded, turns = processor.dialogue((first, *rest), has_image=image is not None)
    return _sample(config, processor, image, encoded, turns, example)


def _check_regions(spoken: int, example: np.ndarray | None) -> None:
    if spoken and example is None:
        raise UsageError(
            f"{REGION_MARKER} is spoken of and nothing is shown", where="--prompt", do="show it: --example"
        )
    if spoken > 1:
        what = f"{REGION_MARKER} stands {spoken} times, and one example is shown"
        raise UsageError(what, where="--prompt", do="speak of it once; Griffon has learned one example a conversation")


def _sample(
    config: GriffonConfig,
    processor: Processor,
    image: np.ndarray | None,
    encoded: Encoded,
    turns: tuple[Turn, ...],
    example: np.ndarray | None,
    number: int = 0,
) -> ConversationSample:
    shown = () if example is None else (torch.as_tensor(config.pixels(config.region_size)(example)),)
    whole = () if image is None else (processor.tower(image),)
    apart = {CROP: shown} if shown and config.region_tower else {}
    return ConversationSample(
        encoded=encoded,
        turns=turns,
        images={MAIN: whole if apart else (*whole, *shown), **apart} if whole else {},
        draw=Draw("prompt", number, 0),
        image_id=None if image is None else number,
        original_size=(0, 0) if image is None else (image.shape[0], image.shape[1]),
        max_new_tokens=min(MAX_NEW_TOKENS, config.max_length),
    )


def question(names: Sequence[str] | None, prompt: str | None, *, shown: bool) -> str:
    """What is asked, the picture's marker included."""
    first = {name: bank.wordings[0] for name, bank in banks().items()}
    if names is not None:
        return first["detect"].replace("<category set>", ", ".join(names)) + NAMED_FORMAT
    if prompt is None and shown:
        return first["similar"] + BARE_FORMAT
    if shown and prompt is not None and REGION_MARKER not in prompt:
        return f"{MARKER}\n{prompt} {REGION_MARKER}"
    return prompt if prompt is not None and MARKER in prompt else f"{MARKER}\n{prompt or REQUEST}"
