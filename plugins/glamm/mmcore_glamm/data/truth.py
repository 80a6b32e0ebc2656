"""What GLaMM's published evaluations ask: every picture of a split, every box of a file."""

from dataclasses import dataclass, replace
from pathlib import Path

from mmcore.contract.protocols import DataSource
from mmcore.contract.values import MAIN, ConversationSample, Draw, Region
from mmcore.data.formats.truth import Asked
from mmcore.data.images import MAX_PIXELS
from mmcore.data.pictures import read_placed
from mmcore.language.processor import Processor

from mmcore_glamm.config import GlammConfig
from mmcore_glamm.questions import sample

REGION_REQUEST = "Please describe <bbox> of the picture in detail."
"""Our wording of the request; `options.request` replaces it by the published one."""
MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class AskedSource(DataSource):
    """Questions about whole pictures or boxes, to be answered freely.

    Args:
        name: of the validation set.
        asked: in file order.
        images: folder below which the pictures lie.
        config: of the model.
        processor: how text and pictures are read.
        request: what is asked; holds `<bbox>` where boxes are asked about.
        segment: whether the answer may have masks, so that SAM sees the picture.
        fingerprint: of the file and the request.
        max_new_tokens: longest answer.
        max_pixels: larger images are refused before decoding.
    """

    name: str
    asked: tuple[Asked, ...]
    images: Path
    config: GlammConfig
    processor: Processor
    request: str
    segment: bool
    fingerprint: str
    max_new_tokens: int = MAX_NEW_TOKENS
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.asked)

    def sample(self, draw: Draw) -> ConversationSample:
        """Question `draw.position`.

        Raises:
            DataError: its picture cannot be used.
        """
        one = self.asked[draw.position]
        rgb = read_placed(self.images, one.image, f"validation set {self.name!r}, {one.id}", self.max_pixels)
        made = sample(self.config, self.processor, rgb, self.request, [one.box_xyxy] if one.box_xyxy else ())
        images = made.images if self.segment else {MAIN: made.images[MAIN]}
        regions = (Region(one.box_xyxy),) if one.box_xyxy else ()
        return replace(
            made,
            images=images,
            draw=draw,
            image_id=one.image if one.box_xyxy else one.id,
            record_id=one.id,
            regions=regions,
            max_new_tokens=self.max_new_tokens,
        )
