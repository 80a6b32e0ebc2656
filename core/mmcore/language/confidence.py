"""How sure a model was of each thing that it wrote, where things in an answer are told apart by tokens of their own.

cat -[ 0.1 , 0.2 , ... ]& dog -[ ...          after_name is `-[`, after_box is `]&`
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Marks:
    """The tokens by which an answer's probabilities are cut into objects."""

    after_box: int
    """Ends an object: `]&` or `&`."""
    after_name: int
    """Ends a class name: `-[` or `-`."""


def confidence(ids: Sequence[int], probabilities: Sequence[float], marks: Marks) -> list[float]:
    """How sure the model was of each object: the root of the product of its name's and its box's probabilities.

    Griffon's walk (Zhan et al. 2024; griffon/coor_utils.py, accum_probs) with its edges: the digit before `]&` and the
    last token of the answer do not count. Answers of boxes alone have no names and therefore none.

    Args:
        ids: new tokens of one answer.
        probabilities: of each.
        marks: of the tokenizer.
    """
    taken = np.asarray(probabilities, np.float64)
    names, boxes = [], []
    name_from = box_from = 0
    for place, token in enumerate(ids):
        if token == marks.after_box:
            # A slice that ends before the first token counts from the behind, as it does in the published code.
            name_from = place + 1
            boxes.append(taken[box_from : place - 1].prod())
        elif token == marks.after_name:
            box_from = place + 1
            names.append(taken[name_from:place].prod())
        elif place == len(ids) - 1:
            boxes.append(taken[box_from:place].prod())
    return [float(np.sqrt(box * name)) for box, name in zip(boxes, names)]
