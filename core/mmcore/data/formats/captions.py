"""COCO captions (Chen et al. 2015) as conversations: somebody asks for a description, the caption answers.

    {"images": [{"id": 7, "file_name": "000000000007.jpg"}, ...],
     "annotations": [{"id": 1, "image_id": 7, "caption": "a wide street"}, ...]}

Every annotation becomes a record, in file order; or every image once, with the first annotation that names it. What is
asked, and on which side of the request the image stands, follows from the annotation's place in the file. The records
are those of `mmcore.data.formats.llava.LlavaIndex`.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmcore.base.hashing import mix
from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.formats.llava import LlavaParser, indexed
from mmcore.data.formats.spoken import RecordFault
from mmcore.data.index import Prepared, Report
from mmcore.errors import DataError
from mmcore.language.conversation import MARKER

REQUESTS = (
    "Describe the image.",
    "What does this picture show?",
    "Say briefly what you see.",
    "Give a short description of the photograph.",
)
"""Our own wording: the bank `captions` (`mmcore.language.templates`)."""


@dataclass(frozen=True, slots=True)
class CaptionParser:
    """Parser of one captions file.

    Attributes:
        path: the JSON file.
        requests: what is asked, one of them per record; the image's marker is added before or behind.
        answer: said instead of every caption; None says the caption.
        one_per_image: keep the first annotation of each image only.
        marker_last: the image always stands behind the request.
    """

    path: Path
    requests: tuple[str, ...] = REQUESTS
    answer: str | None = None
    one_per_image: bool = False
    marker_last: bool = False

    columns: ClassVar[Mapping[str, Any]] = LlavaParser.columns

    @property
    def format(self) -> str:
        return "coco-captions/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "requests": list(self.requests),
            "answer": self.answer,
            "one_per_image": self.one_per_image,
            "marker_last": self.marker_last,
        }

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Find where each annotation and its image lie in the file."""
        report(f"scanning {self.path.name}", 0.0)
        image_ids, image_of, images, annotations = self._scan()
        if self.one_per_image:
            first = np.sort(np.unique(image_of, return_index=True)[1])
            image_of, annotations = image_of[first], annotations[first]
        order = np.argsort(image_ids, kind="stable")
        found = np.searchsorted(image_ids, image_of, sorter=order).clip(max=max(len(order) - 1, 0))
        rows = order[found] if len(order) else np.full(len(image_of), -1)
        rows = np.where(image_ids[rows] == image_of, rows, -1) if len(order) else rows
        no_place = np.zeros((len(rows), 2), np.int64)
        places = np.where(rows[:, None] >= 0, images[rows], no_place) if len(order) else no_place
        np.save(folder / "places.npy", np.concatenate([annotations, places], 1))
        return Prepared(len(rows), {})

    def _scan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Image ids, the image id of every annotation, and the place in the file of both."""
        ids = {"images": array("q"), "annotations": array("q")}
        places = {"images": array("q"), "annotations": array("q")}
        for key, start, end, value in walk(self.path):
            if key in ids:
                field = "id" if key == "images" else "image_id"
                try:
                    ids[key].append(value[field])
                except (KeyError, TypeError, OverflowError, IndexError):
                    raise DataError(
                        f"an element of {key} has no whole number {field!r}",
                        where=f"{self.path}, byte {start}",
                        do="repair the file",
                    ) from None
                places[key].extend((start, end))
        if not ids["annotations"]:
            raise DataError("there are no annotations", where=self.path, do="this is not a COCO captions file")
        image_ids, image_of = (np.array(ids[key], np.int64) for key in ("images", "annotations"))
        images, annotations = (np.array(places[key], np.int64).reshape(-1, 2) for key in ("images", "annotations"))
        return image_ids, image_of, images, annotations

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        places = np.load(folder / "places.npy", mmap_mode="r")[start:stop].tolist()
        with FileBytes(self.path) as content:
            for number, (begin, end, image_begin, image_end) in enumerate(places, start):
                annotation = content.value(begin, end)
                image = content.value(image_begin, image_end) if image_end else None
                yield indexed(*self._record(annotation, image, number))

    def _record(self, annotation: dict[str, Any], image: Any, number: int) -> tuple[dict[str, Any], RecordFault | None]:
        caption = annotation.get("caption")
        key = annotation.get("image_id")
        if not isinstance(image, dict):
            return {"id": key}, RecordFault(f"image id {key} is not among the file's images", "field image_id")
        if not isinstance(caption, str) or not caption.strip():
            return {"id": key}, RecordFault(f"the caption is {caption!r}", "field caption", "a text that is not empty")
        bits = mix(number)
        request = self.requests[bits % len(self.requests)]
        before = not self.marker_last and (bits >> 32) % 2 == 0
        asked = f"{MARKER}\n{request}" if before else f"{request}\n{MARKER}"
        # A caption that happens to hold the marker would count as a second image.
        said = caption.strip().replace(MARKER, "") if self.answer is None else self.answer
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
        return {"id": key, "image": image.get("file_name"), "conversations": turns}, None


# ---- format ----


class CaptionOptions(Recipe):
    """What a source of captions may choose."""

    requests: tuple[str, ...] | None = None
    """What is asked, one of them per record; None takes the bank `captions`, which `data.templates` may replace."""


def _write(folder: Path) -> Written:
    content = miniature.coco()
    del content["categories"]
    content["annotations"] = [
        {"id": number, "image_id": scene.image_id, "caption": miniature.caption(scene)}
        for number, scene in enumerate(miniature.scenes(), 1)
    ]
    miniature.write_pictures(folder / "images")
    miniature.write_json(folder / "captions.json", content)
    return Written("captions.json", "images")


FORMATS = (
    Format(
        name="COCO captions",
        short=("coco", "captions"),
        title="COCO JSON with `caption` instead of objects: every caption answers a request to describe its image",
        content="conversations",
        tasks=("caption",),
        parser=lambda files, options: CaptionParser(files[0], requests=options.requests or REQUESTS),
        options=CaptionOptions,
        sniff=lambda glimpse: (
            "images" in glimpse.parts
            and glimpse.has("annotations", "caption", "image_id")
            and not glimpse.has("annotations", "bbox")
        ),
        sample=_write,
    ),
)
