"""Batches of GLEE as pictures: objects, the names that are asked about, a visual prompt and what it hides."""

from mmcore.contract.values import Box
from mmcore.geometry.masks import tight_box
from mmcore.show.batch import by_clip
from mmcore.show.draw import draw_row
from mmcore.show.marks import Mark
from mmcore.show.text import Run
from PIL.Image import Image

from mmcore_glee.batch import GleeBatch

MOST_NAMES = 40
"""Names that are written below a picture, those that occur in it first; of the others only how many there are."""
PROMPT, HIDDEN = (255, 0, 255), (128, 128, 128)


def draw_asked(batch: GleeBatch) -> list[Image]:
    """One picture per sample, of a clip its frames side by side.

    Args:
        batch: on the CPU.
    """
    rows = range(len(batch.images))
    return by_clip(batch, [draw_row(batch, row, given=_given(batch, row), says=_asked(batch, row)) for row in rows])


def _given(batch: GleeBatch, row: int) -> list[Mark]:
    """The visual prompt of an image, and the objects that it hides."""
    if batch.prompt_masks is None:
        return []
    marks = [Mark(HIDDEN, box, label="hidden") for box in _hidden(batch, row)]
    place = _prompt_of(batch, row)
    if place is None:
        return marks
    mask = batch.prompt_masks[place].numpy()
    box = tight_box(mask)
    mask = None if batch.prompt_mode == "box" else mask
    return [Mark(PROMPT, box, mask, f"prompt: {batch.prompt_mode}", given=True), *marks]


def _asked(batch: GleeBatch, row: int) -> list[Run]:
    """What is asked about an image, in words."""
    if batch.prompt_masks is not None:
        count = len(_hidden(batch, row))
        others = (
            "nothing else is there" if not count else f"{count} other object{'s are' if count > 1 else ' is'} hidden"
        )
        return [Run(f"a visual prompt ({batch.prompt_mode}) shows what to find: {others}", PROMPT)]
    if batch.expressions is not None:
        return []
    first = sum(batch.num_objects[:row])
    present = sorted(set(batch.labels[first : first + batch.num_objects[row]].tolist()))
    order = [*present, *(label for label in range(len(batch.names)) if label not in set(present))]
    shown = ", ".join(batch.names[label] for label in order[:MOST_NAMES])
    more = len(order) - MOST_NAMES
    return [Run(f"asked for {len(order)} names: {shown}{f' and {more} more' if more > 0 else ''}")]


def _hidden(batch: GleeBatch, row: int) -> tuple[Box, ...]:
    return () if batch.hidden is None else batch.hidden[row]


def _prompt_of(batch: GleeBatch, row: int) -> int | None:
    """The place of an image's prompt; of a clip only the first frame has one."""
    if batch.num_frames is None:
        return row
    starts = batch.first_frames.tolist()
    return starts.index(row) if row in starts else None
