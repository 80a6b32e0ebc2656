"""Visual prompts on the command line: `point:X,Y`, `box:L,T,R,B`, `scribble:X,Y,X,Y,...` or `mask:FILE`, in pixels."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch

from mmcore.contract.values import Prediction, PromptKind, Region, VisualPrompt
from mmcore.data.images import read_image
from mmcore.data.visual import prompt_mask
from mmcore.errors import UsageError, suggest

KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
OPTION = "--visual"
_FORMS = "point:X,Y  box:LEFT,TOP,RIGHT,BOTTOM  scribble:X,Y,X,Y,...  mask:FILE"


@dataclass(frozen=True, slots=True)
class Visual:
    """What to find, pointed at."""

    said: str
    """As it was given."""
    prompt: VisualPrompt

    def on(self, image: np.ndarray) -> VisualPrompt:
        """The prompt with its region filled in, for one (height, width, 3) image.

        Raises:
            UsageError: it is not inside the image.
        """
        mask = prompt_mask(self.prompt, (image.shape[0], image.shape[1]))
        return replace(self.prompt, mask=torch.from_numpy(mask))


def read_visual(said: str) -> Visual:
    """A prompt as it is written on the command line.

    Raises:
        UsageError: it is none; the forms are in the message.
        DataError: the file of a mask cannot be read.
    """
    kind, _, where = said.partition(":")
    if kind not in KINDS:
        raise UsageError(
            f"{said!r} is no visual prompt", where=OPTION, known=_FORMS, do=suggest(kind, KINDS, "write one of these")
        )
    if kind == "mask":
        pixels = read_image(where)
        return Visual(said, VisualPrompt("mask", mask=torch.from_numpy(pixels.any(2).astype(np.uint8))))
    try:
        numbers = [float(number) for number in where.split(",")]
    except ValueError:
        numbers = []
    wrong = {"point": len(numbers) != 2, "box": len(numbers) != 4, "scribble": len(numbers) < 4 or len(numbers) % 2}
    if wrong[kind]:
        raise UsageError(f"{where!r} is not where a {kind} is", where=OPTION, known=_FORMS)
    return Visual(said, VisualPrompt(kind, torch.tensor(numbers, dtype=torch.float64).view(-1, 2)))


def with_prompt(prediction: Prediction, prompt: dict[str, Any]) -> Prediction:
    """The prediction with what was pointed at beside what was found, so that pictures show both."""
    if "visual" not in prompt:
        return prediction
    shown: VisualPrompt = prompt["visual"]
    box = None
    if shown.kind == "box":
        assert shown.points_xy is not None
        (left, top), (right, bottom) = shown.points_xy.sort(dim=0).values.tolist()
        box = (left, top, right, bottom)
    region = Region(box_xyxy=box, mask=None if shown.kind == "box" else shown.mask)
    return replace(prediction, regions=(*prediction.regions, region))
