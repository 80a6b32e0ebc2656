"""Conversations in LLaVA's format: a JSON array, or a JSON object a line, told apart by content.

    {"id": "x1", "image": "sub/a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                          {"from": "gpt", "value": "A cup."}]}

`image` is left out for text. Records go through the index of `mmcore.data.index`: a worker holds two file handles,
whatever the file's size. A record that cannot be used keeps its place, so positions are those of the file, and raises
when it is read; `mmcore data check` lists all of them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from mmcore.base import tamed
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import kind_of
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.formats.spoken import BOX, RecordFault, understand
from mmcore.data.images import MAX_PIXELS, read_image
from mmcore.data.index import Index, Prepared, Report, open_index
from mmcore.data.pictures import Pictures, picture_at
from mmcore.errors import DataError
from mmcore.geometry.box_text import BoxText
from mmcore.geometry.coordinates import convention
from mmcore.language.conversation import MARKER, Template, normalise
from mmcore.language.sequence import Turn

_PLACES = "places.npy"


CORRECT = "correct or remove the record; `mmcore data check` lists all of them"


class Conversation(NamedTuple):
    """One usable record."""

    id: int | str
    image: str | None
    """File name below the image folder; None for text."""
    conversations: tuple[Mapping[str, str], ...]
    """`from` and `value` as in the file."""
    where: str
    """The file and the record, for errors."""
    boxes: tuple[str, Sequence[Sequence[float]]] | None = None
    """Convention of what stands for each <bbox> in the text, and the numbers; None where there is none."""

    def placed(self, size: tuple[int, int], grammar: BoxText) -> "Conversation":
        """The record with its boxes written into the text.

        Args:
            size: height and width of the image on disk, pixels.
            grammar: how the family writes a box.

        Raises:
            DataError: a box lies outside the image; names file and record.
        """
        if self.boxes is None:
            return self
        name, numbers = self.boxes
        pixels = convention(name).to_pixels(np.array(numbers, np.float64), size)
        written = [grammar.write(box[None], size) for box in pixels]
        if not all(one.rows for one in written):
            outside = next(given for given, one in zip(numbers, written) if not one.rows)
            raise DataError(
                f"box {list(outside)} lies outside the {size[1]}x{size[0]} image",
                where=f"{self.where}, field objects.bbox",
                do="correct the box, or say what its numbers mean: bbox_type real, norm1 or norm1000",
            )
        texts = iter(one.text for one in written)
        turns = []
        for turn in self.conversations:
            pieces = turn["value"].split(BOX)
            turns.append({**turn, "value": pieces[0] + "".join(next(texts) + piece for piece in pieces[1:])})
        return self._replace(conversations=tuple(turns), boxes=None)

    def turns(self, template: Template | None = None) -> tuple[Turn, ...]:
        """What is said, markers at the front of their turns, as the template wants them.

        Raises:
            DataError: names file and record.
        """
        try:
            if template is None:
                return normalise(self.conversations, has_image=self.image is not None)
            return normalise(
                self.conversations,
                has_image=self.image is not None,
                image=template.image,
                keep_first=template.keep_first,
            )
        except DataError as error:
            raise _placed(error, self.where) from None

    def read_image(self, images: Pictures, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width 3"]:
        """The image below a folder or inside what stands in its place, as RGB.

        Raises:
            DataError: it is missing, damaged, too large or outside the folder; names file and record.
        """
        assert self.image is not None, "a text record was asked for its image"
        try:
            return read_image(picture_at(images, self.image), max_pixels=max_pixels)
        except DataError as error:
            raise _placed(error, self.where) from None


@dataclass(frozen=True, slots=True)
class LlavaParser:
    """Parser of one file; see the module's text for the format."""

    path: Path

    columns: ClassVar[Mapping[str, Any]] = {"words": np.int32, "bad": np.uint8}
    """`words` in all turns, negative without an image, as the published samplers count; whether the record is bad."""

    @property
    def format(self) -> str:
        return "llava/3"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def prepare(self, folder: Path, report: Report) -> Prepared:
        report(f"scanning {self.path.name}", 0.0)
        places = np.array(list(record_places(self.path)), np.int64).reshape(-1, 2)
        if not len(places):
            raise DataError("the file has no conversations", where=self.path, do="check that it is the right file")
        np.save(folder / _PLACES, places)
        return Prepared(len(places), {})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        places = np.load(folder / _PLACES, mmap_mode="r")
        with FileBytes(self.path) as content:
            for begin, end in places[start:stop].tolist():
                try:
                    value = tamed.loads(content.read(begin, end))
                except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
                    yield indexed({}, RecordFault(f"not valid JSON: {error}", "the whole record"))
                else:
                    yield indexed(value)


class LlavaIndex:
    """The records of one file by position; small, picklable, files opened when first read."""

    def __init__(self, index: Index) -> None:
        self.index = index

    @classmethod
    def open(cls, path: Path, cache: Path, **options: Any) -> "LlavaIndex":
        """The records of a LLaVA file, indexed below `cache` if they are not yet.

        Args:
            path: JSON or JSONL.
            cache: folder that holds indexes.
            options: for `mmcore.data.index.open_index`.

        Raises:
            MissingDataError: there is no such file.
            DataError: it is not JSON, or holds no list of records.
        """
        return cls(open_index(LlavaParser(path), cache, **options))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Conversation:
        """Record `position`, counted as in the file.

        Raises:
            DataError: the record cannot be used; names file, record and field.
        """
        id_, image, turns, fault, boxes = json.loads(self.index[position])
        if fault is not None:
            raise self._error(position, id_, RecordFault(*fault))
        return Conversation(id_, image, tuple(turns), self._where(position, id_), tuple(boxes) if boxes else None)

    @property
    def fingerprint(self) -> str:
        """Content hash of the file."""
        return self.index.fingerprint

    def lengths(self) -> Int[np.ndarray, " records"]:
        """Words of each record, negative without an image, as the published length grouping counts them."""
        return np.asarray(self.index.column("words"))

    def unusable(self, position: int) -> bool:
        """Whether record `position` cannot be used."""
        return bool(self.index.column("bad")[position])

    def problems(self) -> Iterator[DataError]:
        """The errors of all records that cannot be used."""
        for position in np.flatnonzero(self.index.column("bad")).tolist():
            id_, _, _, fault, _ = json.loads(self.index[position])
            yield self._error(position, id_, RecordFault(*fault))

    def left_out(self) -> dict[str, int]:
        """What is wrong with records that cannot be used, and with how many, the most frequent first."""
        bad = np.flatnonzero(self.index.column("bad")).tolist()
        return dict(Counter(RecordFault(*json.loads(self.index[one])[3]).what for one in bad).most_common())

    def _where(self, position: int, id_: object) -> str:
        return f"{self.index.label}, record {position} (id {id_})"

    def _error(self, position: int, id_: object, fault: RecordFault) -> DataError:
        return DataError(
            fault.what, where=f"{self._where(position, id_)}, {fault.field}", known=fault.known, do=fault.do or CORRECT
        )


def record_places(path: Path) -> Iterator[tuple[int, int]]:
    """First byte and end of every record of a JSON list or of JSON Lines.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is neither.
    """
    kind = kind_of(path)
    if kind == "list":
        return ((start, end) for _, start, end, _ in walk(path))
    if kind == "lines" or "jsonl" in path.name:  # a first line that is no JSON is one bad record
        return _lines(path)
    raise DataError(
        f"the file is {'a JSON object' if kind == 'object' else 'no JSON'}, not a list of conversations",
        where=path,
        known='[{"id": ..., "image": ..., "conversations": [...]}, ...], or one such object a line',
        do="check that it is a file of conversations",
    )


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Places of the lines that are not blank."""
    with open(path, "rb") as file:
        place = 0
        for line in file:
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                yield place + (3 if line.startswith(b"\xef\xbb\xbf") else 0), place + len(line)
            place += len(line)


def indexed(record: Any, fault: RecordFault | None = None) -> tuple[bytes, Mapping[str, int]]:
    """A record of the format as `LlavaIndex` reads it, and its columns; for parsers that make conversations.

    Args:
        record: `{"id", "image", "conversations"}`.
        fault: what is already known to be wrong with it.
    """
    said = fault or understand(record)
    if isinstance(said, RecordFault):
        id_ = record.get("id") if isinstance(record, dict) else None
        content = [id_ if isinstance(id_, int | str) else None, None, [], said, None]
        return _dumped(content), {"words": 1, "bad": 1}  # a length of 0 would have no modality
    turns = [{"from": turn["from"], "value": turn["value"]} for turn in said.turns]
    words = max(1, sum(len(turn["value"].split()) for turn in turns))
    return _dumped([said.id, said.image, turns, None, said.boxes]), {"words": words if said.image else -words, "bad": 0}


def _dumped(content: list[Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _placed(error: DataError, where: str) -> DataError:
    """The same error, with the record it happened in."""
    inside = f"{where}: {error.where}" if error.where else where
    return type(error)(error.what, where=inside, known=error.known, do=error.do)


# ---- formats ----


def _write(folder: Path) -> Written:
    miniature.write_pictures(folder / "images")
    records = [
        {
            "id": scene.image_id,
            "image": miniature.file_name(scene),
            "conversations": [
                {"from": "human", "value": f"{MARKER}\nWhat is in the picture?"},
                {"from": "gpt", "value": miniature.caption(scene)},
            ],
        }
        for scene in miniature.scenes()
    ]
    miniature.write_json(folder / "conversations.json", records)
    return Written("conversations.json", "images")


def _write_grounded(folder: Path, *, messages: bool) -> Written:
    keys, roles = (("role", "content"), ("user", "assistant")) if messages else (("from", "value"), ("human", "gpt"))
    records = []
    for scene in miniature.scenes():
        thing = miniature.objects(scene)[0]
        x, y, w, h = thing.box_xywh
        said = (f"{MARKER}Where is the <ref-object>?", "It is at <bbox>.")
        turns = [dict(zip(keys, one)) for one in zip(roles, said)]
        objects = {"ref": [thing.kind], "bbox": [[x, y, x + w, y + h]]}
        name = {"images": [f"images/{miniature.file_name(scene)}"]}
        records.append({"messages" if messages else "conversations": turns, **name, "objects": objects})
    miniature.write_pictures(folder / "images")
    miniature.write_lines(folder / "chat.jsonl", records)
    return Written("chat.jsonl")


def _is_sharegpt(record: Any) -> bool:
    return isinstance(record, dict) and bool({"images", "objects", "system", "tools"} & record.keys())


FORMATS = (
    Format(
        name="LLaVA JSON",
        short=("llava",),
        metric="accuracy",
        title="conversations of humans and assistants, a JSON list or one object a line; an image is optional",
        content="conversations",
        tasks=("converse",),
        parser=lambda files, options: LlavaParser(files[0]),
        sniff=lambda glimpse: glimpse.records_have("conversations") and not _is_sharegpt(glimpse.first),
        sample=_write,
    ),
    Format(
        name="ShareGPT",
        short=("sharegpt",),
        metric="accuracy",
        title="`conversations` with `images`, `system` and `objects`, as LLaMA-Factory reads them",
        content="conversations",
        tasks=("converse",),
        parser=lambda files, options: LlavaParser(files[0]),
        sniff=lambda glimpse: glimpse.records_have("conversations") and _is_sharegpt(glimpse.first),
        sample=lambda folder: _write_grounded(folder, messages=False),
    ),
    Format(
        name="messages",
        short=("openai", "swift"),
        metric="accuracy",
        title="`messages` of roles and contents with `images` and `objects`: OpenAI, LLaMA-Factory, ms-swift",
        content="conversations",
        tasks=("converse",),
        parser=lambda files, options: LlavaParser(files[0]),
        sniff=lambda glimpse: glimpse.records_have("messages"),
        sample=lambda folder: _write_grounded(folder, messages=True),
    ),
)
