"""Conversations in LLaVA's format: a JSON array, or a JSON object a line, told apart by content.

    {"id": "x1", "image": "sub/a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                          {"from": "gpt", "value": "A cup."}]}

`image` is left out for text. Records go through the index of `mmcore.data.index`: a worker holds two file handles,
whatever the file's size. A record that cannot be used keeps its place, so positions are those of the file, and raises
when it is read; `mmcore data check` lists all of them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import kind_of
from mmcore.data.formats.jsonstream import FileBytes, walk
from mmcore.data.images import MAX_PIXELS, read_image, safe_join
from mmcore.data.index import Index, Prepared, Report, open_index
from mmcore.data.records import file_name_defect
from mmcore.errors import DataError
from mmcore.language.conversation import MARKER, Template, normalise
from mmcore.language.sequence import Turn

_PLACES = "places.npy"


CORRECT = "correct or remove the record; `mmcore data check` lists all of them"


class Flaw(NamedTuple):
    """Why a record cannot be used."""

    what: str
    field: str
    known: str | None = None
    do: str | None = None


class Conversation(NamedTuple):
    """One usable record."""

    id: int | str
    image: str | None
    """File name below the image folder; None for text."""
    conversations: tuple[Mapping[str, str], ...]
    """`from` and `value` as in the file."""
    where: str
    """The file and the record, for errors."""

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

    def read_image(self, folder: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width 3"]:
        """The image below `folder`, as RGB.

        Raises:
            DataError: it is missing, damaged, too large or outside the folder; names file and record.
        """
        assert self.image is not None, "a text record was asked for its image"
        try:
            return read_image(safe_join(folder, self.image), max_pixels=max_pixels)
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
        return "llava/2"

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
                    value = json.loads(content.read(begin, end))
                except ValueError as error:  # also of bytes that are not UTF-8
                    yield indexed({}, Flaw(f"not valid JSON: {error}", "the whole record"))
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
        id_, image, conversations, flaw = json.loads(self.index[position])
        if flaw is not None:
            raise self._error(position, id_, Flaw(*flaw))
        return Conversation(id_, image, tuple(conversations), self._where(position, id_))

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
            id_, _, _, flaw = json.loads(self.index[position])
            yield self._error(position, id_, Flaw(*flaw))

    def _where(self, position: int, id_: object) -> str:
        return f"{self.index.label}, record {position} (id {id_})"

    def _error(self, position: int, id_: object, flaw: Flaw) -> DataError:
        return DataError(
            flaw.what, where=f"{self._where(position, id_)}, {flaw.field}", known=flaw.known, do=flaw.do or CORRECT
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


def indexed(record: Any, flaw: Flaw | None = None) -> tuple[bytes, Mapping[str, int]]:
    """A record of the format as `LlavaIndex` reads it, and its columns; for parsers that make conversations.

    Args:
        record: `{"id", "image", "conversations"}`.
        flaw: what is already known to be wrong with it.
    """
    flaw = flaw or _flaw(record)
    return _to_bytes(record, flaw), _facts(record, flaw)


def _flaw(record: Any) -> Flaw | None:
    """What is wrong with a record."""
    if not isinstance(record, dict):
        return Flaw(f"the record is a {type(record).__name__}, not an object", "the whole record")
    image = record.get("image")
    if "image" in record and (defect := file_name_defect(image)):
        return Flaw(defect, "field image")
    conversations = record.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        return Flaw("the record has no list of turns", "field conversations")
    try:
        turns = normalise(conversations, has_image=False)
        for turn in turns:
            turn.text.encode()
    except DataError as error:
        return Flaw(error.what, error.where or "field conversations", error.known, error.do)
    except UnicodeEncodeError:
        return Flaw("a turn holds half of a surrogate pair, which is no character", "field conversations")
    marked = sum(MARKER in turn.text for turn in turns)
    if image is not None and marked != 1:
        said = f"{marked} turns have" if marked else "no turn has"
        return Flaw(f"the record names an image, but {said} {MARKER}", "field conversations", f"one turn with {MARKER}")
    if not any(turn.role == "assistant" and turn.text for turn in turns):
        return Flaw("the conversation has no answer", "field conversations")
    return None


def _to_bytes(record: Any, flaw: Flaw | None) -> bytes:
    fields = record if isinstance(record, dict) else {}
    id_ = fields.get("id") if isinstance(fields.get("id"), int | str) else None
    turns = [] if flaw else [{"from": turn["from"], "value": turn["value"]} for turn in fields["conversations"]]
    return json.dumps([id_, None if flaw else fields.get("image"), turns, flaw], separators=(",", ":")).encode()


def _facts(record: Any, flaw: Flaw | None) -> dict[str, int]:
    if flaw:
        return {"words": 1, "bad": 1}  # a length of 0 would have no modality
    words = max(1, sum(len(turn["value"].split()) for turn in record["conversations"]))
    return {"words": words if "image" in record else -words, "bad": 0}


def _placed(error: DataError, where: str) -> DataError:
    """The same error, with the record it happened in."""
    inside = f"{where}: {error.where}" if error.where else where
    return type(error)(error.what, where=inside, known=error.known, do=error.do)


# ---- format ----


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


FORMATS = (
    Format(
        name="LLaVA JSON",
        short=("llava",),
        metric="accuracy",
        title="conversations of humans and assistants, a JSON list or one object a line; an image is optional",
        content="conversations",
        tasks=("converse",),
        parser=lambda files, options: LlavaParser(files[0]),
        sniff=lambda glimpse: glimpse.records_have("conversations"),
        sample=_write,
    ),
)
