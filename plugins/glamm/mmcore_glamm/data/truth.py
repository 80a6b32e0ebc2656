"""What GLaMM's published evaluations ask: every picture of a split, every box of a file; and what they compare with."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmcore.contract.protocols import DataSource
from mmcore.contract.values import MAIN, ConversationSample, Draw, Id, Region
from mmcore.data.images import MAX_PIXELS, unsafe_reason
from mmcore.errors import DataError, MissingDataError
from mmcore.language.processor import Processor

from mmcore_glamm.config import GlammConfig
from mmcore_glamm.data.sources import read_placed
from mmcore_glamm.evaluate.files import listed, read_json
from mmcore_glamm.questions import sample

REGION_REQUEST = "Please describe <bbox> of the picture in detail."
"""Our wording of the request; `options.request` replaces it by the published one."""
MAX_NEW_TOKENS = 512
ENDINGS = (".jpg", ".jpeg", ".png")


class Asked(NamedTuple):
    """One question of an evaluation."""

    id: Id
    image: str
    box_xyxy: tuple[float, float, float, float] | None
    answers: tuple[str, ...]


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
        from dataclasses import replace

        one = self.asked[draw.position]
        rgb = read_placed(self.images, one.image, self.max_pixels, f"validation set {self.name!r}, {one.id}")
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


def gcg_questions(captions: Path, images: Path) -> tuple[Asked, ...]:
    """The pictures of a split of GranD-f's evaluation, with their captions.

    Raises:
        DataError: the file is not in the format.
        MissingDataError: a picture is not there.
    """
    content = read_json(captions)
    said: dict[Id, list[str]] = {}
    for one in listed(content, "annotations", captions):
        said.setdefault(one["image_id"], []).append(str(one["caption"]))
    asked = []
    for one in listed(content, "images", captions):
        name = next((f"{one['id']}{end}" for end in ENDINGS if (images / f"{one['id']}{end}").is_file()), None)
        if name is None:
            raise MissingDataError(f"there is no picture {one['id']}", where=images, known=ENDINGS)
        asked.append(Asked(one["id"], name, None, tuple(said.get(one["id"], ()))))
    return tuple(asked)


def region_questions(path: Path) -> tuple[Asked, ...]:
    """The boxes of a region caption file: the annotation under each image's own id.

    Raises:
        DataError: the file is not in the format.
    """
    content = read_json(path)
    by_id = {one["id"]: one for one in listed(content, "annotations", path)}
    said: dict[Id, list[str]] = {}
    for one in by_id.values():
        said.setdefault(one["image_id"], []).append(str(one.get("caption", "")))
    asked = []
    for image in listed(content, "images", path):
        annotation = by_id.get(image["id"])
        if annotation is None or unsafe_reason(str(image.get("file_name"))):
            problem = "no annotation of this id" if annotation is None else "no usable file name"
            raise DataError(f"image {image['id']} has {problem}", where=path)
        x, y, w, h = annotation["bbox"]
        asked.append(Asked(image["id"], image["file_name"], (x, y, x + w, y + h), tuple(said[image["id"]])))
    return tuple(asked)
