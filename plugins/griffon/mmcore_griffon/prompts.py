"""Questions about loose pictures: by classes, by words, or by showing an example."""

from collections.abc import Sequence

import numpy as np
from mmcore.contract.values import CROP, MAIN, ConversationSample, Draw, Turn
from mmcore.errors import UsageError
from mmcore.language.conversation import MARKER, normalise
from mmcore.language.processor import Processor

from mmcore_griffon.config import REGION_MARKER, GriffonConfig
from mmcore_griffon.data.wordings import BARE_FORMAT, NAMED_FORMAT, banks

REQUEST = "Describe this picture."
"""Asked when nobody asks anything."""


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
    if REGION_MARKER in text and example is None:
        raise UsageError(f"the prompt speaks of {REGION_MARKER} and nothing is shown", where="--prompt", do="--example")
    style = processor.template
    (asked, _) = normalise(
        ({"from": "human", "value": text}, {"from": "gpt", "value": "-"}),
        image=style.image,
        keep_first=style.keep_first,
    )
    turns = (asked, Turn("assistant", ""))
    shown = () if example is None else (config.pixels(config.region_size)(example),)
    found = []
    for number, image in enumerate(images):
        whole = processor.tower(image)
        seen = {MAIN: (whole,), CROP: shown} if shown and config.region_tower else {MAIN: (whole, *shown)}
        size = (image.shape[0], image.shape[1])
        found.append(ConversationSample(processor.asked(turns), turns, seen, Draw("prompt", number, 0), number, size))
    return found


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
