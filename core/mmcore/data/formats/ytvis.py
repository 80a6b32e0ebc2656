"""Videos in the form of YouTube-VIS (Yang et al. 2019): COCO's, with a box and a mask for every frame of a track.

    videos       id, height, width, length, file_names [and expressions: Ref-YouTube-VOS as GLEE reads it]
    annotations  id, video_id, category_id, iscrowd, bboxes and segmentations, each one entry a frame or null
    categories   id, name

OVIS, UVO's dense videos, LV-VIS, BURST, TAO and BDD100K's tracks come in it as converted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.contract.recipe import Recipe
from mmcore.data.demo.clips import as_ytvis, draw_clip
from mmcore.data.formats import miniature
from mmcore.data.formats.coco import category_numbers, groups, prepare_groups
from mmcore.data.formats.coco_objects import to_object
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.plain_values import clean_annotation, clean_image, flag
from mmcore.data.index import Prepared, Report
from mmcore.data.records import Defect, file_name_defect, is_side
from mmcore.data.videos import Box, Track, VideoRecord

LISTS = ("exhaustive_category_ids", "not_exhaustive_category_ids", "neg_category_ids")
"""Fields of a video that list categories, kept as they are."""


@dataclass(frozen=True, slots=True)
class Videos:
    """Parser of one file; records are videos.

    Attributes:
        path: the JSON file.
        has_masks: a thing is seen in a frame where it has box and mask; otherwise a box is enough.
        expressions: videos carry `expressions`, which refer to what is marked in them.
        box_tolerance_px: how far a box may reach outside its frame.
    """

    path: Path
    has_masks: bool = True
    expressions: bool = False
    box_tolerance_px: float = 2.0

    @property
    def format(self) -> str:
        return "videos/1"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "has_masks": self.has_masks,
            "expressions": self.expressions,
            "box_tolerance_px": self.box_tolerance_px,
        }

    def prepare(self, folder: Path, report: Report) -> Prepared:
        return prepare_groups(self.path, folder, report, owners="videos", link="video_id")

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        numbers = category_numbers(folder)
        for video, annotations in groups(self.path, folder, start, stop):
            record = self._record(clean_image(video), annotations, numbers)
            yield record.to_bytes(), record.facts()

    def _record(self, video: dict[str, Any], annotations: Sequence[Any], numbers: dict[int, int]) -> VideoRecord:
        defects = list(_video_defects(video))
        names = video.get("file_names")
        names = names if isinstance(names, list) else []
        frames = tuple(str(name).replace("\\", "/") for name in names)
        length = video.get("length", len(frames))
        if length != len(frames):
            frames = frames[:length] if isinstance(length, int) and 0 < length < len(frames) else frames
            defects.append(Defect("video", "length", f"{length!r:.80}, but there are {len(names)} file names", False))
        height, width = (video[side] if is_side(video.get(side)) else 0 for side in ("height", "width"))
        tracks: list[Track] = []
        for annotation in annotations:
            track = self._track(annotation, len(frames), (height, width), numbers, defects)
            if track is not None:
                tracks.append(track)
        expressions: tuple[str, ...] = ()
        if self.expressions:
            given = video.get("expressions")
            if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
                expressions = tuple(given)
            else:
                defects.append(Defect("video", "expressions", "not a list of at least one text", True))
        lists = {name: video[name] for name in LISTS if name in video}
        ids = tuple(video.get("image_ids") or ())
        return VideoRecord(
            frames, video["id"], height, width, tuple(tracks), expressions, tuple(defects), lists or None, ids
        )

    def _track(
        self,
        annotation: dict[str, Any],
        length: int,
        size: tuple[int, int],
        numbers: dict[int, int],
        defects: list[Defect],
    ) -> Track | None:
        """One annotation's frames; what is wrong with a frame is added to `defects`."""
        entry = clean_annotation(annotation)
        per_frame = {name: _listed(entry, name, length, defects) for name in ("bboxes", "segmentations")}
        boxes: list[Box | None] = [None] * length
        shapes: list[Any] = [None] * length
        category, crowd = 0, flag(entry.get("iscrowd")) or False
        fields = {name: value for name, value in entry.items() if name not in ("bboxes", "segmentations", "bbox")}
        for frame, (box, shape) in enumerate(zip(per_frame["bboxes"], per_frame["segmentations"], strict=True)):
            if not box or (self.has_masks and not shape):
                continue
            one = clean_annotation({**fields, "bbox": box, "segmentation": shape if self.has_masks else None})
            found = to_object(one, *size, numbers, self.box_tolerance_px)
            for item in found:
                if isinstance(item, Defect):
                    defects.append(item._replace(where=f"{item.where}, frame {frame}"))
                else:
                    boxes[frame], shapes[frame], category = item.box_xywh, item.segmentation, item.category
        if not any(boxes):
            return None
        return Track(entry["id"], category, crowd, tuple(boxes), tuple(shapes))


def _video_defects(video: dict[str, Any]) -> Iterator[Defect]:
    names = video.get("file_names")
    if not isinstance(names, list) or not names:
        yield Defect("video", "file_names", "not a list of at least one file name", True)
    else:
        for frame, name in enumerate(names):
            if problem := file_name_defect(name):
                yield Defect(f"video, frame {frame}", "file_names", problem, True)
    for side in ("height", "width"):
        if not is_side(video.get(side)):
            yield Defect("video", side, f"{video.get(side)!r:.80} is not a positive whole number of pixels", True)


def _listed(entry: Mapping[str, Any], name: str, length: int, defects: list[Defect]) -> list[Any]:
    """A field with one entry a frame; one of another length cannot be used."""
    given = entry.get(name)
    if not given:
        return [None] * length
    if isinstance(given, list) and len(given) >= length:
        return given[:length]
    found = f"{len(given)} entries" if isinstance(given, list) else type(given).__name__
    defects.append(Defect(f"annotation {entry['id']}", name, f"{found} for {length} frames", True))
    return [None] * length


# ---- formats ----


class VideoOptions(Recipe):
    """What a source of videos may choose."""

    box_tolerance_px: float = 2.0
    """How far a box may reach outside its frame, pixels."""


def _has_masks(glimpse: Glimpse) -> bool:
    return glimpse.has("videos", "file_names") and _first_annotation(glimpse, "segmentations")


def _has_boxes(glimpse: Glimpse) -> bool:
    return glimpse.has("videos", "file_names") and not _first_annotation(glimpse, "segmentations")


def _is_referring(glimpse: Glimpse) -> bool:
    return glimpse.has("videos", "expressions")


def _first_annotation(glimpse: Glimpse, field: str) -> bool:
    """Whether the first annotation has anything under a field that lists frames."""
    first = glimpse.parts.get("annotations")
    return isinstance(first, dict) and isinstance(first.get(field), list) and any(first[field])


def _write(folder: Path, *, masks: bool = True, expressions: bool = False) -> Written:
    """Four clips of three frames."""
    clips = [draw_clip(0, number, 3) for number in (1, 2, 3, 4)]
    for clip in clips:
        for name, content in zip(clip.names(), clip.frames, strict=True):
            path = folder / "frames" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    kinds = sorted({thing.kind for clip in clips for thing in clip.things})
    content = as_ytvis(clips, [{"id": number, "name": kind} for number, kind in enumerate(kinds, 1)])
    if expressions:  # one thing a video, and words that mean it
        for video, clip in zip(content["videos"], clips, strict=True):
            video["expressions"] = [f"the {clip.things[0].colour} {clip.things[0].kind} that moves".replace("  ", " ")]
        first = {id_: min(a["id"] for a in content["annotations"] if a["video_id"] == id_) for id_ in (1, 2, 3, 4)}
        content["annotations"] = [a for a in content["annotations"] if a["id"] in first.values()]
    if not masks:
        for annotation in content["annotations"]:
            annotation["segmentations"] = [None] * annotation["length"]
    miniature.write_json(folder / "videos.json", content)
    return Written("videos.json", "frames")


FORMATS = (
    Format(
        name="YouTube-VIS",
        title="videos with masks and identities, in the form of YouTube-VIS",
        content="videos",
        tasks=("track",),
        parser=lambda files, options: Videos(files[0], box_tolerance_px=options.box_tolerance_px),
        options=VideoOptions,
        has_masks=True,
        evaluator="youtube_vis",
        truth="records",
        metric="segm/AP",
        short=("ytvis",),
        sniff=_has_masks,
        sample=_write,
    ),
    Format(
        name="YouTube-VIS boxes",
        title="videos with boxes and identities, in the form of YouTube-VIS",
        content="videos",
        tasks=("track",),
        parser=lambda files, options: Videos(files[0], has_masks=False, box_tolerance_px=options.box_tolerance_px),
        options=VideoOptions,
        evaluator="youtube_vis",
        truth="records",
        metric="bbox/AP",
        short=("ytvis",),
        sniff=_has_boxes,
        sample=lambda folder: _write(folder, masks=False),
    ),
    Format(
        name="Ref-YouTube-VOS",
        title="videos with expressions, each for the one thing that is marked, in the form of YouTube-VIS",
        content="videos",
        tasks=("track_refer",),
        parser=lambda files, options: Videos(files[0], expressions=True, box_tolerance_px=options.box_tolerance_px),
        options=VideoOptions,
        has_masks=True,
        evaluator="video_objects",
        truth="records",
        metric="J&F",
        short=("ytvis",),
        sniff=_is_referring,
        sample=lambda folder: _write(folder, expressions=True),
    ),
)
"""Of one file the last that recognises it is taken."""
