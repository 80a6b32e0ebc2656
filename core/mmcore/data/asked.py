"""Questions of a published evaluation (`mmcore.data.formats.truth`) as a source: every picture of a split, or every box
of a file, one prompt each in the family's own words."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import ConversationSample, Draw, Region
from mmcore.data.formats.truth import Asked
from mmcore.data.images import MAX_PIXELS
from mmcore.data.pictures import Pictures, read_placed

Ask = Callable[[UInt8[np.ndarray, "height width 3"], str, Asked], ConversationSample]
"""From a picture, the request and what is asked about to a prompt whose answer is left open; picklable."""


@dataclass(frozen=True)
class AskedSource(DataSource):
    """Questions about whole pictures or boxes, to be answered freely.

    Args:
        name: of the validation set.
        asked: in file order.
        images: folder below which the pictures lie.
        request: what is asked of every picture or box.
        ask: makes the prompt.
        max_new_tokens: longest answer.
        max_pixels: larger images are refused before decoding.
    """

    name: str
    asked: tuple[Asked, ...]
    images: Pictures
    request: str
    ask: Ask
    max_new_tokens: int
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def fingerprint(self) -> str:
        """Of what is asked, and of the answers it is compared with."""
        return hashlib.blake2b(repr((self.request, self.asked)).encode(), digest_size=16).hexdigest()

    def shown(self, position: int) -> Shown:
        """The picture with what is asked and one right answer."""
        one = self.asked[position]
        rgb = self._picture(one)
        return Shown(rgb, question=self.request, answer=one.answers[0] if one.answers else "")

    def sample(self, draw: Draw) -> ConversationSample:
        """Question `draw.position`.

        Raises:
            DataError: its picture cannot be used.
        """
        one = self.asked[draw.position]
        return replace(
            self.ask(self._picture(one), self.request, one),
            draw=draw,
            image_id=one.image if one.box_xyxy else one.id,
            record_id=one.id,
            regions=(Region(one.box_xyxy),) if one.box_xyxy else (),
            max_new_tokens=self.max_new_tokens,
        )

    def _picture(self, one: Asked) -> UInt8[np.ndarray, "height width 3"]:
        return read_placed(self.images, one.image, f"validation set {self.name!r}, {one.id}", self.max_pixels)
