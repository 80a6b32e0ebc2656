"""From a record to a question and its answer: one function for each way in which Griffon is asked.

    DET       which of these classes are there, and where          every box with its class, from left to right
    RANDDET   the same of the few classes that a record names       the same
    VG, REC   where is this                                        every box with the expression, in the file's order
    REG       what is at this place                                the description
    VISJ      what else looks like this part of the picture        boxes alone, from left to right

What is drawn (classes that are absent, their order, wording, example) is drawn by `pose`; the others are told.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmcore.contract.values import Box
from mmcore.data.formats.box_lines import Kind
from mmcore.data.named_boxes import Scene
from mmcore.data.names import enumerated
from mmcore.language.conversation import MARKER

from mmcore_griffon.answers import write
from mmcore_griffon.data.wordings import BARE_FORMAT, NAMED_FORMAT

BANKS: Mapping[Kind, str] = {
    "DET": "detect",
    "RANDDET": "refer",
    "VG": "refer",
    "REC": "single",
    "REG": "describe",
    "VISJ": "similar",
}
"""The bank that asks for each kind."""
NUM_CLASSES = 80
"""Classes that a question of detection names; fewer where the file has fewer, more where the picture has more."""


class Asked(NamedTuple):
    """A question, what is to be answered, and the boxes that either speaks of."""

    question: str
    answer: str
    boxes: tuple[Box, ...]
    """In the order in which the text has them, pixels of the record's picture."""
    names: tuple[str, ...] | None
    """Of the boxes; None where they stand alone."""
    example: Box | None = None
    """The part of the picture that is shown instead of named."""


def pose(
    kind: Kind,
    scene: Scene,
    wordings: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
    side: int,
    categories: Sequence[str] = (),
) -> Asked:
    """A question about a record, drawn.

    Args:
        kind: how it is asked.
        scene: the record.
        wordings: bank -> questions.
        rng: decides everything that is random.
        side: of the square that the model sees, pixels.
        categories: of the file, from which absent classes are drawn.
    """
    bank = wordings[BANKS[kind]]
    wording = bank[int(rng.integers(len(bank)))]
    match kind:
        case "DET":
            return detection(scene, wording, classes(scene, categories, rng), side)
        case "RANDDET":
            names = list(dict.fromkeys(scene.names))
            return listed(scene, wording, [names[i] for i in rng.permutation(len(names))], side)
        case "VG" | "REC":
            return expression(scene, wording, int(rng.integers(len(scene.names))), side)
        case "REG":
            return description(scene, wording, int(rng.integers(len(scene.names))), side)
        case "VISJ":
            shown = [number for number, boxes in enumerate(scene.boxes) if boxes]
            chosen = shown[int(rng.integers(len(shown)))]
            return similar(scene, wording, chosen, int(rng.integers(len(scene.boxes[chosen]))), side)


def classes(scene: Scene, categories: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The classes that a question names: all of the picture's, absent ones up to `NUM_CLASSES`, shuffled.

    The published loader draws absent ones from a list that changes with every sample, so that a seed says nothing;
    here they are drawn from all of the file, or from those that a record says are absent.
    """
    present = dict.fromkeys(name for name, boxes in zip(scene.names, scene.boxes) if boxes)
    others = [name for name in (categories if scene.absent is None else scene.absent) if name not in present]
    room = max(0, min(NUM_CLASSES - len(present), len(others)))
    named = [*present] + [others[i] for i in rng.choice(len(others), room, replace=False)]
    return [named[i] for i in rng.permutation(len(named))]


def detection(scene: Scene, wording: str, named: Sequence[str], side: int, *, answer_format: bool = True) -> Asked:
    """All objects of the classes that are named; evaluation as published does not say how to answer."""
    question = wording.replace("<category set>", ", ".join(named))
    return _found(question + NAMED_FORMAT if answer_format else question, scene, side)


def listed(scene: Scene, wording: str, named: Sequence[str], side: int) -> Asked:
    """All objects of a few classes, named as one does in a sentence."""
    return _found(in_front(wording).replace("<expr>", enumerated(named)), scene, side)


def _found(question: str, scene: Scene, side: int) -> Asked:
    names, boxes = scene.rows()
    answer = write(boxes, scene.size, side, names, from_left=True)
    return Asked(
        question, answer.text, tuple(boxes[row] for row in answer.rows), tuple(names[row] for row in answer.rows)
    )


def expression(scene: Scene, wording: str, number: int, side: int) -> Asked:
    """Every place that an expression means; `None` where there is none."""
    said, boxes = scene.names[number], scene.boxes[number]
    answer = write(boxes, scene.size, side, [said] * len(boxes))
    placed = tuple(boxes[row] for row in answer.rows)
    return Asked(in_front(wording).replace("<expr>", said), answer.text, placed, (said,) * len(placed))


def description(scene: Scene, wording: str, number: int, side: int) -> Asked:
    """What is at a place, or at several."""
    said, boxes = scene.names[number], scene.boxes[number]
    place = write(boxes, scene.size, side)
    question = in_front(wording).replace("<objs>", place.text)
    return Asked(question, said, tuple(boxes[row] for row in place.rows), None)


def similar(scene: Scene, wording: str, number: int, example: int, side: int) -> Asked:
    """Everything that looks like one of the boxes, that one included."""
    boxes = scene.boxes[number]
    answer = write(boxes, scene.size, side, from_left=True)
    placed = tuple(boxes[row] for row in answer.rows)
    return Asked(wording + BARE_FORMAT, answer.text, placed, None, boxes[example])


def in_front(wording: str) -> str:
    """A wording with a line end and, where it names no picture, the picture in front."""
    ended = wording if wording.endswith("\n") else wording + "\n"
    return ended if MARKER in ended else MARKER + ended
