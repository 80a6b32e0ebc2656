"""An answer piece by piece while it is generated: ids in, new text out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

UNFINISHED = "\ufffd"
"""What a decoder writes for a letter of which some bytes are still to come."""


@dataclass
class Streamed:
    """Tells what each further id adds to the text, as `answer` will give it: stripped, letters whole.

    Args:
        tell: given the new piece of text; never an empty one.
        decode: ids to text, special tokens left out.
    """

    tell: Callable[[str], None]
    decode: Callable[[list[int]], str]
    ids: list[int] = field(default_factory=list)
    told: str = ""

    def __call__(self, ids: Sequence[int]) -> None:
        """Take further ids.

        A decoder may rewrite what came before (a blank before a comma): such a piece waits until the text goes on from
        what was told.
        """
        self.ids += ids
        text = self.decode(self.ids).strip()
        if text.endswith(UNFINISHED) or not text.startswith(self.told) or text == self.told:
            return
        self.tell(text[len(self.told) :])
        self.told = text
