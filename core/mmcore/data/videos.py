"""Videos as an annotation file describes them: frames, and what is followed through them.

A record in the index is a JSON text. Like a record of images it carries what is wrong with it, and whoever asks for a
record that cannot be used gets a `DataError` that names file, video and field.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mmcore.data.records import Defect, Records

Box = tuple[float, float, float, float]


class Track(NamedTuple):
    """One thing through a video; in frames where it is not seen it has neither box nor mask."""

    id: int
    """Annotation id of the file, the same in all frames."""
    category: int
    """Contiguous from 0, in the order of the category ids of the file."""
    crowd: bool
    boxes_xywh: tuple[Box | None, ...]
    """One a frame, pixels of the frames on disk."""
    segmentations: tuple[Any, ...]
    """One a frame: polygons, compressed RLE, or None."""


class VideoRecord(NamedTuple):
    """One video with its tracks, or with one referred thing and the expressions that mean it."""

    frames: tuple[str, ...]
    """File names below the image folder, in order."""
    id: int
    height: int
    """Pixels, as the annotation file says."""
    width: int
    objects: tuple[Track, ...]
    expressions: tuple[str, ...] = ()
    """Each means what is marked throughout the video."""
    defects: tuple[Defect, ...] = ()
    category_lists: dict[str, list[int]] | None = None
    """Category ids of the file that hold for the video as a whole, by field (BURST)."""
    frame_ids: tuple[int, ...] = ()
    """Ids of the frames, where the file numbers them (TAO's `image_ids`)."""

    @property
    def image(self) -> str:
        """The first frame, for messages."""
        return self.frames[0] if self.frames else "no frame"

    def to_bytes(self) -> bytes:
        """The form in the index."""
        return json.dumps(self, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def from_bytes(cls, content: bytes) -> "VideoRecord":
        """The inverse of `to_bytes`."""
        frames, id_, height, width, tracks, expressions, defects, lists, frame_ids = json.loads(
            content.decode("utf-8", "surrogatepass")
        )
        objects = tuple(
            Track(number, category, crowd, tuple(None if box is None else tuple(box) for box in boxes), tuple(shapes))
            for number, category, crowd, boxes, shapes in tracks
        )
        found = tuple(Defect(*item) for item in defects)
        return cls(tuple(frames), id_, height, width, objects, tuple(expressions), found, lists, tuple(frame_ids))

    def facts(self) -> Mapping[str, int]:
        """The columns of the index, as of records of images; a track counts as one object."""
        found = sum(not track.crowd for track in self.objects)
        return {
            "width": self.width,
            "height": self.height,
            "num_objects": max(found, int(any(defect.fatal for defect in self.defects))),
            "has_mask": any(any(track.segmentations) for track in self.objects),
            "num_defects": len(self.defects),
        }


class VideoRecords(Records):
    """The videos of an index that a split uses, by position."""

    kind = VideoRecord

    if TYPE_CHECKING:

        def __getitem__(self, position: int) -> VideoRecord: ...  # type: ignore[override]

        def __iter__(self) -> Iterator[VideoRecord]: ...  # type: ignore[override]
