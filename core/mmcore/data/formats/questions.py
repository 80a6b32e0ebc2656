"""Question files for evaluation, read whole: the format has no parser of an index.

    {"question_id": 3, "image": "000003.jpg", "text": "What color is the circle?", "answer": "red", "category": "color"}

A JSON list, a JSON object with `questions`, or one object a line. `answers` may hold several (VQA gives ten people's).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.base import tamed
from mmcore.base.jsonfile import read_text
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse, kind_of
from mmcore.errors import DataError, MissingDataError
from mmcore.language.conversation import MARKER

_TEXT = ("text", "question", "prompt")
_ID = ("question_id", "id", "index", "idx")
_IMAGE = ("image", "filename", "image_path")
_ANSWER = ("answer", "answers", "gt")


class Question(NamedTuple):
    """One question of a file."""

    id: int | str
    text: str
    image: str | None
    """Path below the image folder; None for a question about text alone."""
    answers: tuple[str, ...]
    """What counts as right; one, or what several people said."""
    facts: Mapping[str, Any]
    """Every other entry: category, task, source, ..."""


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions of a file, in its order.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not in the format; names record and field.
    """
    questions = tuple(_question(entry, f"{path}, record {n}", n) for n, entry in enumerate(_entries(path)))
    if not questions:
        raise DataError("the file has no questions", where=path)
    repeated = [str(id_) for id_, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        # MME asks two questions under one picture's name; the place in the file tells them apart.
        questions = tuple(
            question._replace(id=f"{question.id}#{number}", facts={**question.facts, "question_id": question.id})
            for number, question in enumerate(questions)
        )
    return questions


def _entries(path: Path) -> Iterable[Any]:
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise MissingDataError("question file is missing", where=path, do="check --data") from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error}", where=path) from None
    except (OSError, ValueError) as error:
        raise DataError(f"the question file cannot be read: {error}", where=path) from None
    try:
        return _values(text, path)
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def _values(text: str, path: Path) -> list[Any]:
    """The entries of a JSON list, of an object with `questions`, or of lines."""
    try:
        found = tamed.loads(text)
    except ValueError:
        if kind_of(path) != "lines" and "jsonl" not in path.name:
            raise
        # Not by splitlines: U+2028 may stand in a question.
        return [tamed.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(found, dict) and any(key in found for key in _TEXT):
        return [found]  # a file of one line
    entries = found.get("questions") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise DataError("neither a list of questions nor an object with `questions`", where=path)
    return entries


def _question(entry: Any, where: str, number: int) -> Question:
    if not isinstance(entry, dict):
        raise DataError(f"the record is a {type(entry).__name__}, not an object", where=where)
    text, image = _first(entry, _TEXT), _first(entry, _IMAGE)
    answers = _first(entry, _ANSWER)
    text = text.replace(MARKER, "").strip() if isinstance(text, str) else text  # where the image stands is ours to say
    if not isinstance(text, str) or not text:
        raise DataError("the record has no question", where=f"{where}, field {_TEXT[0]}", known=_TEXT)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    image = image.replace("\\", "/") or None if isinstance(image, str) else image
    if image is not None and not isinstance(image, str):
        raise DataError(f"the image is {type(image).__name__}, not a file name", where=f"{where}, field {_IMAGE[0]}")
    if answers is None:
        raise DataError("the record has no answer to compare with", where=f"{where}, field answer", known=_ANSWER)
    listed = answers if isinstance(answers, list) else [answers]
    said = tuple(str(one["answer"] if isinstance(one, dict) and "answer" in one else one) for one in listed)
    id_ = _first(entry, _ID)
    if not isinstance(id_, int | str | None):
        what = f"the id is a {type(id_).__name__}, neither text nor a number"
        raise DataError(what, where=f"{where}, field {_ID[0]}")
    used = {*_TEXT, *_IMAGE, *_ANSWER, *_ID}
    facts = {key: value for key, value in entry.items() if key not in used}
    return Question(number if id_ is None else id_, text, image, said, facts)


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


# ---- format ----


def _is_questions(glimpse: Glimpse) -> bool:
    first = glimpse.parts.get("questions", glimpse.first)
    return isinstance(first, dict) and bool({"question", "text"} & first.keys()) and bool(_ANSWERS & first.keys())


_ANSWERS = frozenset(("answer", "answers", "gt"))


def _write(folder: Path) -> Written:
    questions = [
        {
            "question_id": scene.image_id,
            "image": miniature.file_name(scene),
            "text": f"What colour is the {miniature.objects(scene)[0].kind}?",
            "answer": miniature.objects(scene)[0].colour,
        }
        for scene in miniature.scenes()
    ]
    miniature.write_pictures(folder / "images")
    miniature.write_lines(folder / "questions.jsonl", questions)
    return Written("questions.jsonl", "images")


FORMATS = (
    Format(
        name="questions",
        metric="accuracy",
        title="questions with answers to compare with: a JSON list, {questions: [...]}, or one object a line",
        content="questions",
        tasks=("ask",),
        evaluator="answers",
        sniff=_is_questions,
        sample=_write,
    ),
)
