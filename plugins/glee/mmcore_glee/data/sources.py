"""Sources of one task: a record of the index, read, transformed and given its words.

    records (mmcore.data) -> image -> drawn steps -> Sample

Detection keeps every object that is not a crowd. Referring has one object and several expressions, of which one is
drawn; expressions that count ("second from the left") forbid a crop, and a mirrored image swaps left and right.
"""

from dataclasses import dataclass, replace

import numpy as np
from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import Draw, Sample
from mmcore.data.formats.sidecars import sidecar_masks
from mmcore.data.images import MAX_PIXELS, read_picture
from mmcore.data.pictures import Pictures, picture_at
from mmcore.data.records import Record, Records
from mmcore.data.shown import shown_record
from mmcore.data.transforms import Transform
from mmcore.errors import DataError
from PIL.Image import Image

from mmcore_glee.data.augment import Pipeline
from mmcore_glee.data.samples import Objects, image_only, make_sample
from mmcore_glee.data.tasks import Task
from mmcore_glee.vocabulary import clean_expression, has_ordinal, swap_sides


@dataclass(frozen=True)
class ImageSource(DataSource):
    """Images with their objects, or with one referred object.

    Args:
        name: under which the recipe knows it.
        records: positions of the split.
        images: folder below which the records' images lie.
        task: what its samples are used for.
        pipeline: how images are transformed.
        labels: (categories,) label of each category of the file in the task's vocabulary.
        training: False gives images without objects, transformed for inference.
        has_masks: False leaves segmentations unread.
        sidecars: masks lie in a JSON file beside each image (SA-1B), read with the sample.
        max_pixels: larger images are refused before decoding.
    """

    name: str
    records: Records
    images: Pictures
    task: Task
    pipeline: Pipeline
    labels: np.ndarray
    training: bool = True
    has_masks: bool = True
    sidecars: bool = False
    boxes_format: str = "COCO boxes"
    """What its annotations are read as where they have no masks, for a remedy."""
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Content hash of the annotations and of which records are used."""
        return self.records.fingerprint

    def annotations(self) -> Records:
        """The records of the split."""
        return self.records

    def aspect_groups(self) -> np.ndarray:
        """(records,) uint8: 1 where the image is wider than high, else 0."""
        return self.records.aspect_groups()

    def sample(self, draw: Draw) -> Sample | None:
        """Record `draw.position`, with all randomness from `draw.seed`; None when a crop lost the referred object.

        Raises:
            DataError: the record or its image cannot be used; names file, record and field.
        """
        record = self.records[draw.position]
        image = self._picture(record)
        size = image.height, image.width
        if not self.training:
            return self.present(record, image, self.pipeline.test(size), draw)
        rng = np.random.default_rng(draw.seed)
        countable = any(has_ordinal(expression) for expression in record.expressions)
        transform = self.pipeline.train(size, rng, crop=not countable)
        expression = int(rng.integers(len(record.expressions))) if record.expressions else 0
        return self.transformed(record, image, transform, draw, expression=expression)

    def shown(self, position: int) -> Shown:
        """The picture on disk with its objects."""
        record = self.records[position]
        categories: list[str] = self.records.index.meta["categories"]
        return shown_record(self.read(record), record, categories, has_masks=self.has_masks and not self.sidecars)

    def read(self, record: Record) -> np.ndarray:
        """The image of a record as (height, width, 3) uint8.

        Raises:
            DataError: it is missing, damaged, outside the image folder, or of another size than the record says.
        """
        return np.array(self._picture(record))

    def _picture(self, record: Record) -> Image:
        """The image of a record as Pillow keeps it."""
        path = picture_at(self.images, record.image)
        image = read_picture(path, max_pixels=self.max_pixels)
        if image.size != (record.width, record.height):
            turned = image.size == (record.height, record.width)
            exif = "; its EXIF entry turns it, and the record was made without turning it" if turned else ""
            raise DataError(
                f"image is {image.height}x{image.width}, its record says {record.height}x{record.width}{exif}",
                where=f"{path}, {self._where(record)}",
                do="write the image anew with its pixels turned and without the EXIF entry"
                if turned
                else "fetch the image again, or correct height and width in the annotation file",
            )
        return image

    def transformed(
        self, record: Record, image: np.ndarray | Image, transform: Transform, draw: Draw, *, expression: int = 0
    ) -> Sample | None:
        """A training sample for given steps and the chosen expression."""
        refers = self.task.words == "expression"
        sample = make_sample(
            image,
            self.objects(record),
            transform,
            tight=refers or self.pipeline.boxes_from_masks,
            draw=draw,
            image_id=record.id,
            where=self._where(record),
            expression=spoken(record.expressions[expression], transform) if refers else None,
        )
        return None if refers and not len(sample.labels) else sample

    def present(self, record: Record, image: np.ndarray | Image, transform: Transform, draw: Draw) -> Sample:
        """A sample for inference: no objects, the first expression, or every text that the image is asked about."""
        if self.task.words == "phrases":
            sample = image_only(image, transform, draw=draw, image_id=record.id)
            return replace(sample, names=record.expressions or None)
        expression = spoken(record.expressions[0], transform) if record.expressions else None
        return image_only(image, transform, draw=draw, image_id=record.id, expression=expression)

    def objects(self, record: Record) -> Objects:
        """The record's objects without crowds, in pixels of the image on disk.

        Raises:
            DataError: an object has no mask although the source has masks.
        """
        kept = [item for item in record.objects if not item.crowd]
        phrases = None
        if record.phrases:
            phrases = tuple(text for item, text in zip(record.objects, record.phrases, strict=True) if not item.crowd)
        if self.sidecars:
            given = sidecar_masks(self.images, record.image, [item.id for item in kept], self._where(record))
            kept = [item._replace(segmentation=mask) for item, mask in zip(kept, given, strict=True)]
        if self.has_masks:
            for item in kept:
                if not item.segmentation:
                    raise DataError(
                        "an object has no mask",
                        where=f"{self._where(record)}, annotation {item.id}, field segmentation",
                        do=f'for a data set without masks: --set data.sources.{self.name}.format="{self.boxes_format}"',
                    )
        boxes = np.array([item.box_xywh for item in kept], np.float64).reshape(-1, 4)
        # What detectron2 computes in: integers when the file has integers, else single precision.
        whole = np.array([all(type(value) is int for value in item.box_xywh) for item in kept], bool)
        boxes = np.where(whole[:, None], boxes, boxes.astype(np.float32))
        boxes[:, 2:] += boxes[:, :2]
        return Objects(
            boxes_xyxy=boxes,
            whole=whole,
            labels=self.labels[np.array([item.category for item in kept], np.int64)],
            segmentations=[item.segmentation for item in kept if item.segmentation] if self.has_masks else None,
            phrases=phrases,
        )

    def _where(self, record: Record) -> str:
        return f"{self.records.index.label}, image id {record.id}"


def spoken(expression: str, transform: Transform) -> str:
    """An expression as the text encoder reads it beside the transformed image."""
    cleaned = clean_expression(expression)
    return swap_sides(cleaned) if transform.flipped else cleaned
