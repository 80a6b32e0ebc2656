"""Files in COCO's form whose boxes are spoken of: MDETR's RefCOCO and Flickr30k, Visual Genome as converted for GRiT.

    words "image"        the image entry's caption says what its one box is (RefCOCO, RefCOCO+, RefCOCOg by MDETR)
    words "annotation"   every annotation has a caption of its own (Visual Genome)
    words "span"         an annotation names characters of the image entry's caption (Flickr30k)

An annotation without area, under a pixel wide or high, outside its image or marked `ignore` is left out, of Flickr30k's
boxes a crowd as well, and an image with a side under 32 pixels or, for spans, a caption under three words: published
readers do so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import Format
from mmcore.data.formats.grounded_captions import SpanOptions
from mmcore.data.formats.jsonstream import FileBytes
from mmcore.data.formats.plain_values import clean_annotation, clean_image, clean_segmentation
from mmcore.data.grounded import COLUMNS, Grounded, Part
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, file_name_defect

MIN_SIDE_PX = 32
MIN_WORDS = 3


@dataclass(frozen=True, slots=True)
class CocoRegions:
    """Parser of one file; records are image entries in order of their ids.

    Attributes:
        path: the JSON file.
        words: where a box's words are; see the module's text.
        masks: annotations have a `sam_mask` (the grounded captions made of Flickr30k).
        checked: refuse spans that lie outside the caption; False keeps them, as published.
    """

    path: Path
    words: Literal["image", "annotation", "span"]
    masks: bool = False
    checked: bool = True

    columns: ClassVar[Mapping[str, Any]] = COLUMNS

    @property
    def format(self) -> str:
        return "coco-regions/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"words": self.words, "masks": self.masks, "checked": self.checked}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find where each image and its annotations lie."""
        return CocoInstances(self.path).prepare(folder, report)

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        images = np.load(folder / "image_spans.npy", mmap_mode="r")[start:stop].tolist()
        first = np.load(folder / "first.npy", mmap_mode="r")[start : stop + 1].tolist()
        spans = np.load(folder / "annotation_spans.npy", mmap_mode="r")
        with FileBytes(self.path) as content:
            for (begin, end), left, right in zip(images, first, first[1:]):
                image = clean_image(content.value(begin, end))
                annotations = [clean_annotation(content.value(*span)) for span in spans[left:right].tolist()]
                record = self._record(image, annotations)
                yield record.to_bytes(), record.facts()

    def _record(self, image: dict[str, Any], annotations: list[dict[str, Any]]) -> Grounded:
        name, caption = image.get("file_name"), image.get("caption")
        defects: list[Defect] = []
        if problem := file_name_defect(name):
            defects.append(Defect("image", "file_name", problem, True))
        try:
            size = int(image["height"]), int(image["width"])
        except (KeyError, TypeError, ValueError):
            defects.append(Defect("image", "height", "no height and width in pixels", True))
            size = 0, 0
        if self.words != "annotation" and not isinstance(caption, str):
            defects.append(Defect("image", "caption", "there is no caption", True))
        text = caption if isinstance(caption, str) else ""
        if defects or min(size) < MIN_SIDE_PX or (self.words == "span" and len(text.split(" ")) < MIN_WORDS):
            return Grounded(str(name), image["id"], (), text, tuple(defects))
        found = [self._part(annotation, text, size) for annotation in annotations]
        parts = tuple(one for one in found if isinstance(one, Part))
        defects += [one for one in found if isinstance(one, Defect)]
        return Grounded(str(name), image["id"], parts, text, tuple(defects))

    def _part(self, annotation: dict[str, Any], caption: str, size: tuple[int, int]) -> Part | Defect | None:
        """What an annotation says; None where the published readers leave it out."""
        where = f"annotation {annotation['id']}"
        try:
            x, y, w, h = (float(value) for value in annotation["bbox"])
            area = float(annotation["area"])
        except (KeyError, TypeError, ValueError):
            return Defect(where, "bbox", "no box of four numbers with its area", True)
        overlap = max(0.0, min(x + w, size[1]) - max(x, 0)) * max(0.0, min(y + h, size[0]) - max(y, 0))
        crowd = self.words == "span" and not self.masks and annotation.get("iscrowd")
        if annotation.get("ignore") or crowd or area <= 0 or w < 1 or h < 1 or overlap == 0:
            return None
        span = self._span(annotation, caption, where)
        if isinstance(span, Defect):
            return span
        text = caption[slice(*span)] if span else annotation.get("caption") if self.words == "annotation" else caption
        if not isinstance(text, str):
            return Defect(where, "caption", "the box has no caption", True)
        shapes = clean_segmentation(annotation.get("sam_mask")) if self.masks else None
        if self.masks and not isinstance(shapes, dict):
            return Defect(where, "sam_mask", "there is no mask", True)
        box = (x, y, x + w, y + h)
        return Part(text if span else text.strip(), box, ((shapes,),) if isinstance(shapes, dict) else (), span)

    def _span(self, annotation: dict[str, Any], caption: str, where: str) -> tuple[int, int] | Defect | None:
        if self.words != "span":
            return None
        given = annotation.get("tokens_positive")
        try:
            start, end = given[0]  # type: ignore[index]
            inside = 0 <= start < end <= len(caption)
        except (TypeError, ValueError, IndexError, KeyError):
            return Defect(where, "tokens_positive", f"{given!r:.60} is not a list of [start, end]", True)
        if self.checked and not inside:
            return Defect(where, "tokens_positive", f"[{start}, {end}] lies outside the caption", True)
        return start, end


# ---- formats ----


FLICKR_GCG = "Flickr30k GCG"
MDETR, VISUAL_GENOME, FLICKR_REGIONS = "MDETR region captions", "Visual Genome region captions", "Flickr30k regions"
FORMATS = (
    Format(
        name=FLICKR_GCG,
        title="Flickr30k's captions with SAM's masks of their entities",
        content="grounded",
        tasks=("grounded_caption",),
        parser=lambda files, options: CocoRegions(files[0], "span", masks=True, checked=not options.published_spans),
        options=SpanOptions,
        has_masks=True,
    ),
    Format(
        name=MDETR,
        title="RefCOCO, RefCOCO+ and RefCOCOg by MDETR: one box an image entry, whose caption describes it",
        content="grounded",
        tasks=("region_caption",),
        parser=lambda files, options: CocoRegions(files[0], "image"),
    ),
    Format(
        name=VISUAL_GENOME,
        title="Visual Genome as GRiT has it: every box with its caption",
        content="grounded",
        tasks=("region_caption",),
        parser=lambda files, options: CocoRegions(files[0], "annotation"),
    ),
    Format(
        name=FLICKR_REGIONS,
        title="Flickr30k by MDETR: boxes of the entities of a caption",
        content="grounded",
        tasks=("region_caption",),
        parser=lambda files, options: CocoRegions(files[0], "span", checked=not options.published_spans),
        options=SpanOptions,
    ),
)
