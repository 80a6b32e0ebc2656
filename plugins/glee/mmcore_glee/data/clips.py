"""Sources of clips: some frames of a video, near one another, with what is followed through them.

    records (mmcore.data.videos) -> frames -> drawn steps for each -> ClipSample

Training takes one frame anywhere and others around it; inference takes all. What a crop or another thing hides in a
frame has no row there. Boxes are those of the transformed masks where there are masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import ClipSample, Draw, Sample
from mmcore.data.images import MAX_PIXELS, read_image
from mmcore.data.pictures import Pictures, picture_at
from mmcore.data.shown import shown_video
from mmcore.data.transforms import Transform
from mmcore.data.videos import VideoRecord, VideoRecords
from mmcore.errors import DataError

from mmcore_glee.data.augment import Pipeline
from mmcore_glee.data.samples import Objects, image_only, make_sample
from mmcore_glee.data.sources import spoken
from mmcore_glee.data.tasks import Task


@dataclass(frozen=True)
class ClipSource(DataSource):
    """Videos with their tracks, or with one referred thing.

    Args:
        name: under which the recipe knows it.
        records: positions of the split.
        images: folder below which the frames lie.
        task: what its samples are used for.
        pipeline: how frames are transformed.
        labels: (categories,) label of each category of the file in the task's vocabulary.
        training: False gives whole videos without objects, transformed for inference.
        has_masks: whether the file has masks.
        num_frames: of a training clip.
        frame_range: how far the others may be from the first frame drawn.
        max_pixels: larger frames are refused before decoding.
    """

    name: str
    records: VideoRecords
    images: Pictures
    task: Task
    pipeline: Pipeline
    labels: np.ndarray
    training: bool = True
    has_masks: bool = True
    num_frames: int = 2
    frame_range: int = 5
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Content hash of the annotations and of which records are used."""
        return self.records.fingerprint

    def annotations(self) -> VideoRecords:
        """The records of the split."""
        return self.records

    def aspect_groups(self) -> np.ndarray:
        """(records,) uint8: 1 where the video is wider than high, else 0."""
        return self.records.aspect_groups()

    def sample(self, draw: Draw) -> ClipSample:
        """A clip of record `draw.position`, with all randomness from `draw.seed`; the whole video for inference.

        Raises:
            DataError: the record or a frame cannot be used; names file, record and field.
        """
        record = self.records[draw.position]
        if not self.training:
            return self.present(record, draw)
        rng = np.random.default_rng(draw.seed)
        numbers = self.draw_frames(len(record.frames), rng)
        images = [self.read(record, number) for number in numbers]
        transforms = self.pipeline.train_clip(images[0].shape[:2], len(images), rng)
        expression = int(rng.integers(len(record.expressions))) if record.expressions else 0
        return self.transformed(record, numbers, images, transforms, draw, expression=expression)

    def shown(self, position: int) -> Shown:
        """Some frames of a video on disk with what is followed through them."""
        record = self.records[position]
        return shown_video(self.read, record, self.records.index.meta["categories"], has_masks=self.has_masks)

    def draw_frames(self, length: int, rng: np.random.Generator) -> list[int]:
        """One frame, and others around it, drawn with replacement as published; in order."""
        reference = int(rng.integers(length))
        around = range(max(0, reference - self.frame_range), min(length, reference + self.frame_range + 1))
        others = [number for number in around if number != reference] or [reference]
        return sorted([reference, *rng.choice(others, self.num_frames - 1).tolist()])

    def read(self, record: VideoRecord, number: int) -> np.ndarray:
        """One frame as (height, width, 3) uint8.

        Raises:
            DataError: it is missing, damaged, outside the folder, or of another size than the record says.
        """
        path = picture_at(self.images, record.frames[number])
        image = read_image(path, max_pixels=self.max_pixels)
        if image.shape[:2] != (record.height, record.width):
            raise DataError(
                f"frame is {image.shape[0]}x{image.shape[1]}, its record says {record.height}x{record.width}",
                where=f"{path}, {self._where(record, number)}",
                do="fetch the frames again, or correct height and width in the annotation file",
            )
        return image

    def transformed(
        self,
        record: VideoRecord,
        numbers: Sequence[int],
        images: Sequence[np.ndarray],
        transforms: Sequence[Transform],
        draw: Draw,
        *,
        expression: int = 0,
    ) -> ClipSample:
        """A training clip for given frames, steps and the chosen expression."""
        frames, ids = [], []
        for number, image, transform in zip(numbers, images, transforms, strict=True):
            objects, seen = self.objects(record, number)
            sample = make_sample(
                image,
                objects,
                transform,
                tight=True,
                draw=draw,
                image_id=record.id,
                where=self._where(record, number),
                tracks=torch.tensor(seen, dtype=torch.int64),
            )
            frames.append(sample)
            ids.append(number)
        if self.pipeline.squared:
            frames, ids = _begin_with_an_object(frames, ids)
        words = spoken(record.expressions[expression], transforms[0]) if self.task.words == "expression" else None
        return as_clip(frames, ids, expression=words)

    def present(self, record: VideoRecord, draw: Draw) -> ClipSample:
        """The whole video for inference: no objects, the first expression."""
        words = spoken(record.expressions[0], Transform((1, 1))) if self.task.words == "expression" else None
        frames = []
        for number in range(len(record.frames)):
            image = self.read(record, number)
            frames.append(image_only(image, self.pipeline.test(image.shape[:2]), draw=draw, image_id=record.id))
        return as_clip(frames, list(range(len(frames))), expression=words)

    def objects(self, record: VideoRecord, number: int) -> tuple[Objects, list[int]]:
        """What is seen in a frame without crowds, in pixels of the frame on disk, and the identity of each."""
        seen = [t for t in record.objects if not t.crowd and t.boxes_xywh[number] is not None]
        boxes = np.array([track.boxes_xywh[number] for track in seen], np.float64).reshape(-1, 4)
        whole = np.array([all(type(v) is int for v in track.boxes_xywh[number] or ()) for track in seen], bool)
        boxes = np.where(whole[:, None], boxes, boxes.astype(np.float32))
        boxes[:, 2:] += boxes[:, :2]
        objects = Objects(
            boxes_xyxy=boxes,
            whole=whole,
            labels=self.labels[np.array([track.category for track in seen], np.int64)],
            segmentations=[track.segmentations[number] for track in seen] if self.has_masks else None,
        )
        return objects, [track.id for track in seen]

    def _where(self, record: VideoRecord, number: int) -> str:
        return f"{self.records.index.label}, video id {record.id}, frame {number}"


def as_clip(frames: Sequence[Sample], numbers: Sequence[int], *, expression: str | None = None) -> ClipSample:
    """Frames of one video as one sample; smaller ones are padded to the largest.

    Args:
        frames: with `track_ids`, or without objects.
        numbers: of the frames within their video.
        expression: what is referred to throughout.
    """
    sizes = tuple((int(frame.image.shape[1]), int(frame.image.shape[2])) for frame in frames)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    fill = [(0, width - w, 0, height - h) for h, w in sizes]
    has_masks = all(frame.masks is not None for frame in frames)
    masks = [F.pad(frame.masks, pad) for frame, pad in zip(frames, fill) if frame.masks is not None]
    counts = [len(frame.labels) for frame in frames]
    none = torch.zeros(0, dtype=torch.int64)
    return ClipSample(
        frames=torch.stack([F.pad(frame.image, pad) for frame, pad in zip(frames, fill)]),
        frame_numbers=tuple(numbers),
        boxes_xyxy=torch.cat([frame.boxes_xyxy for frame in frames]),
        labels=torch.cat([frame.labels for frame in frames]),
        frame_index=torch.arange(len(frames)).repeat_interleave(torch.tensor(counts)),
        track_ids=torch.cat([none if frame.track_ids is None else frame.track_ids for frame in frames]),
        masks=torch.cat(masks) if has_masks else None,
        draw=frames[0].draw,
        image_id=frames[0].image_id,
        original_size=frames[0].original_size,
        expression=expression,
        frame_sizes=sizes,
    )


def _begin_with_an_object(frames: list[Sample], numbers: list[int]) -> tuple[list[Sample], list[int]]:
    """Exchange an empty first frame with the first that shows something, as published for large-scale jitter."""
    first = next((i for i, frame in enumerate(frames) if len(frame.labels)), 0)
    frames[0], frames[first] = frames[first], frames[0]
    numbers[0], numbers[first] = numbers[first], numbers[0]
    return frames, numbers
