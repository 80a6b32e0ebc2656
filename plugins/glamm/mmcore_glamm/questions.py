"""Questions about loose pictures: a prompt, names to segment, or boxes to describe."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmcore.contract.values import MAIN, SEGMENT, Box, ConversationSample, Draw, Region, Turn, VisualPrompt
from mmcore.data.formats.truth import Asked
from mmcore.errors import UsageError
from mmcore.language.conversation import MARKER
from mmcore.language.processor import Processor
from mmcore.vision.sam.pixels import padded

from mmcore_glamm.tokens import BOX, OVERVIEW

REQUEST = (
    "Could you please give me a detailed description of the image? Please respond with interleaved"
    "     segmentation masks for the corresponding parts of the answer."
)
"""Asked when nobody asks anything: the published evaluation's prompt to the letter, its five blanks included."""
REGION_REQUEST = "Please describe <bbox> of the picture in detail."
"""Asked of every box where region captions are evaluated; `options.request` puts the published words in its place."""
SEGMENT_REQUEST = "Can you segment the {} in this image?"
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")


@dataclass(frozen=True)
class Asking:
    """Questions about pictures, (height, width, 3) uint8 RGB, prepared as training pictures are.

    Args:
        processor: of the model.
        side: of SAM's square, pixels.
    """

    processor: Processor
    side: int

    def prompts(
        self, images: Sequence[np.ndarray], names: Sequence[str] | None, prompt: str | None
    ) -> list[ConversationSample]:
        """One question about each picture.

        Args:
            images: each of its own size.
            names: what to segment.
            prompt: a question; boxes in it, "[left, top, right, bottom]" in pixels, are read as regions.

        Raises:
            UsageError: names are given together with a prompt.
        """
        if names is not None and prompt is not None:
            raise UsageError("names and a prompt ask for two things", where="--names, --prompt", do="give one of them")
        text, boxes = _pointed(prompt or (SEGMENT_REQUEST.format(", ".join(names)) if names else REQUEST))
        return [self.sample(image, text, boxes, number) for number, image in enumerate(images)]

    def conversation(self, image: np.ndarray, turns: Sequence[Turn]) -> ConversationSample:
        """A conversation, the user first, whose last question is open; boxes in questions are read as regions."""
        said: list[Turn] = []
        boxes: list[Box] = []
        for role, text in turns:
            if role == "user":
                text, own = _pointed(text)
                boxes += own
            said.append(Turn(role, text))
        return self.sample(image, said[-1].text, boxes, before=said[:-1])

    def evaluation(self, segment: bool, image: np.ndarray, request: str, asked: Asked) -> ConversationSample:
        """A question of a published evaluation; SAM sees the picture only if the answer may have masks (`segment`)."""
        made = self.sample(image, request, [asked.box_xyxy] if asked.box_xyxy else ())
        return made if segment else replace(made, images={MAIN: made.images[MAIN]})

    def sample(
        self, image: np.ndarray, text: str, boxes: Sequence[Box] = (), number: int = 0, before: Sequence[Turn] = ()
    ) -> ConversationSample:
        """One question with the assistant's turn left open.

        Args:
            image: the picture.
            text: the question; `<bbox>` for each of `boxes`.
            boxes: left, top, right, bottom in pixels.
            number: of the picture.
            before: what was said earlier about it.
        """
        (_, first), *rest = (*before, Turn("user", text))
        asked = f"{OVERVIEW}{first}".replace(MARKER, self.processor.template.image)
        turns = (Turn("user", asked), *rest, Turn("assistant", ""))
        return ConversationSample(
            encoded=self.processor.asked(turns),
            turns=turns,
            images={MAIN: (self.processor.tower(image),), SEGMENT: (padded(image, self.side),)},
            draw=Draw("prompt", number, 0),
            image_id=number,
            original_size=(image.shape[0], image.shape[1]),
            regions=tuple(Region(box) for box in boxes),
            prompts=tuple(VisualPrompt("box", torch.tensor(box, dtype=torch.float32).view(2, 2)) for box in boxes),
        )


def _pointed(text: str) -> tuple[str, list[Box]]:
    """A question with `<bbox>` for each of its boxes, and the boxes."""
    found = _BOX.findall(text)
    return _BOX.sub(BOX, text), [(float(a), float(b), float(c), float(d)) for a, b, c, d in found]
