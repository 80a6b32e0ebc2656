"""Questions about loose pictures: a prompt, names to segment, or boxes to describe."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from mmcore.contract.values import MAIN, SEGMENT, Box, ConversationSample, Draw, Encoded, Region, Turn, VisualPrompt
from mmcore.errors import UsageError
from mmcore.language.conversation import MARKER
from mmcore.language.processor import Processor
from mmcore.language.sequence import IGNORE
from mmcore.language.tokens import tokenize
from mmcore.vision.sam.pixels import padded

from mmcore_glamm.config import GlammConfig
from mmcore_glamm.tokens import BOX

PREFIX = f"The {MARKER} provides an overview of the picture.\n"
"""Before the first question, as in training."""
REQUEST = (
    "Could you please give me a detailed description of the image? Please respond with interleaved"
    "     segmentation masks for the corresponding parts of the answer."
)
"""Asked when nobody asks anything: the published evaluation's prompt to the letter, its five blanks included."""
SEGMENT_REQUEST = "Can you segment the {} in this image?"
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")


def prompts(
    config: GlammConfig,
    processor: Processor,
    images: Sequence[np.ndarray],
    names: Sequence[str] | None,
    prompt: str | None,
) -> list[ConversationSample]:
    """One question about each picture, prepared as training pictures are.

    Args:
        config: of the model.
        processor: of the model.
        images: (height, width, 3) uint8 RGB, each of its own size.
        names: what to segment.
        prompt: a question; boxes in it, "[left, top, right, bottom]" in pixels, are read as regions.

    Raises:
        UsageError: both are given, or several names.
    """
    if names is not None and prompt is not None:
        raise UsageError("names and a prompt ask for two things", where="--names, --prompt", do="give one of them")
    text = prompt or (SEGMENT_REQUEST.format(", ".join(names)) if names else REQUEST)
    text, boxes = _pointed(text)
    return [sample(config, processor, image, text, boxes, number) for number, image in enumerate(images)]


def conversation(
    config: GlammConfig, processor: Processor, image: np.ndarray, turns: Sequence[Turn]
) -> ConversationSample:
    """A conversation about a picture whose last question is open; boxes in questions are read as regions.

    Args:
        config: of the model.
        processor: of the model.
        image: (height, width, 3) uint8 RGB.
        turns: the user first, the question last.
    """
    said: list[Turn] = []
    boxes: list[Box] = []
    for role, text in turns:
        if role == "user":
            text, own = _pointed(text)
            boxes += own
        said.append(Turn(role, text))
    return sample(config, processor, image, said[-1].text, boxes, before=said[:-1])


def _pointed(text: str) -> tuple[str, list[Box]]:
    """A question with `<bbox>` for each of its boxes, and the boxes."""
    found = _BOX.findall(text)
    return _BOX.sub(BOX, text), [(float(a), float(b), float(c), float(d)) for a, b, c, d in found]


def sample(
    config: GlammConfig,
    processor: Processor,
    image: np.ndarray,
    text: str,
    boxes: Sequence[Box] = (),
    number: int = 0,
    before: Sequence[Turn] = (),
) -> ConversationSample:
    """One question with the assistant's turn left open.

    Args:
        config: of the model.
        processor: of the model.
        image: (height, width, 3) uint8 RGB.
        text: the question; `<bbox>` for each of `boxes`.
        boxes: left, top, right, bottom in pixels.
        number: of the picture.
        before: what was said earlier about it.
    """
    (_, first), *rest = (*before, Turn("user", text))
    asked = f"{PREFIX}{first}".replace(MARKER, processor.template.image)
    turns = (Turn("user", asked), *rest, Turn("assistant", ""))
    ids = tokenize(processor.template.render(turns), processor.tokenizer)
    return ConversationSample(
        encoded=Encoded(ids, np.full_like(ids, IGNORE)),
        turns=turns,
        images={MAIN: (processor.tower(image),), SEGMENT: (padded(image, config.sam.image_size),)},
        draw=Draw("prompt", number, 0),
        image_id=number,
        original_size=(image.shape[0], image.shape[1]),
        regions=tuple(Region(box) for box in boxes),
        prompts=tuple(VisualPrompt("box", torch.tensor(box, dtype=torch.float32).view(2, 2)) for box in boxes),
    )
