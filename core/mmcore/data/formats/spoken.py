"""What people write for a conversation, in one form: LLaVA's turns, one image, boxes apart from the text.

    LLaVA      {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}
    ShareGPT   {"images": ["a.jpg"], "conversations": [...], "system": "...", "objects": {...}}     (LLaMA-Factory)
    messages   {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What?"}, ...], "objects": {...}}
               (OpenAI, LLaMA-Factory, ms-swift); content may be a list of parts, of text and of images

    Alpaca     {"instruction": "What?", "input": "", "output": "A cup."}, and ms-swift's {"query": ..., "response": ...}

A system text goes before the first question. `objects` is ms-swift's: `ref` has the names that stand for <ref-object>,
`bbox` the boxes that stand for <bbox>, in their order; `bbox_type` is `real` (pixels), `norm1` or `norm1000`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmcore.data.records import file_name_defect
from mmcore.errors import DataError
from mmcore.language.conversation import MARKER, normalise

REF, BOX = "<ref-object>", "<bbox>"
ASKED_BY: Mapping[str, tuple[str, str]] = {"Alpaca": ("instruction", "output"), "query/response": ("query", "response")}
"""Format -> the keys of a record's one question and of its answer."""
SPEAKERS = {"user": "human", "assistant": "gpt", "human": "human", "gpt": "gpt"}
CONVENTION_OF = {"real": "pixels", "norm1": "fractions", "norm1000": "thousandths"}
"""`bbox_type` -> name of the convention (`mmcore.geometry.coordinates`)."""


class RecordFault(NamedTuple):
    """Why a record cannot be used."""

    what: str
    field: str
    known: str | None = None
    do: str | None = None


class Said(NamedTuple):
    """A usable record in the one form."""

    id: int | str | None
    image: str | None
    turns: list[dict[str, str]]
    """`from` and `value`, markers and <bbox> in the text."""
    boxes: tuple[str, list[list[float]]] | None = None
    """Convention, and four numbers for each <bbox>."""


def understand(record: Any) -> Said | RecordFault:
    """A record in the one form, or what is wrong with it."""
    if not isinstance(record, dict):
        return RecordFault(f"the record is a {type(record).__name__}, not an object", "the whole record")
    key, given = _given(record)
    if isinstance(given, RecordFault):
        return given
    turns, shown = _turns(given)
    images = [*_images(record), *shown]
    if len(images) > 1:
        return RecordFault(
            f"the record names {len(images)} images; one is read",
            "field images",
            do="leave one, make a record of each, or join them side by side in one file",
        )
    image = images[0] if images else None
    if image is not None and (defect := file_name_defect(image)):
        return RecordFault(defect, "field image")
    image = None if image is None else str(image).replace("\\", "/")
    if key != "conversations" and image is not None:
        _show(turns)
    turns = _with_system(turns, record.get("system"))
    boxes = _place_objects(turns, record.get("objects"))
    fault = boxes if isinstance(boxes, RecordFault) else _wrong_turns(turns, image)
    id_ = record.get("id")
    return fault or Said(id_ if isinstance(id_, int | str) else None, image, turns, boxes)  # type: ignore[arg-type]


def _given(record: Mapping[str, Any]) -> tuple[str, list[Any] | RecordFault]:
    """The key under which a record has its turns, and these."""
    key = next((key for key in ("conversations", "messages") if key in record), None)
    pair = next((pair for pair in ASKED_BY.values() if all(one in record for one in pair)), None)
    if key is None and pair is not None:
        return pair[0], _rounds(record, *pair)
    given = record.get(key or "conversations")
    if not isinstance(given, list) or not given:
        return key or "conversations", RecordFault("the record has no list of turns", f"field {key or 'conversations'}")
    return key or "conversations", given


def _rounds(record: Mapping[str, Any], asked: str, answered: str) -> list[Any] | RecordFault:
    """The turns of a record with one question and its answer, the earlier rounds of `history` first."""
    question, history = record[asked], record.get("history") or []
    if isinstance(question, str) and "<img>" in question:
        return RecordFault(
            "the question names a picture as <img>file</img>",
            f"field {asked}",
            f'"{asked}": "{MARKER}What?", "images": ["a.jpg"]',
            f"write {MARKER} there, and the file under images",
        )
    more = record.get("input")
    if asked == "instruction" and isinstance(question, str) and isinstance(more, str) and more.strip():
        question = f"{question}\n{more}"
    if not isinstance(history, list) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in history):
        return RecordFault(f"history {history!r:.60} is no list of pairs", "field history", "[[question, answer], ...]")
    spoken = [*history, (question, record[answered])]
    return [{"from": name, "value": text} for pair in spoken for name, text in zip(("human", "gpt"), pair)]


def _turns(given: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The turns under LLaVA's keys, and the images that stand in lists of parts; what is no turn stays as it is."""
    turns: list[Any] = []
    shown: list[Any] = []
    for entry in given:
        if not isinstance(entry, dict):
            turns.append(entry)
            continue
        role = entry.get("from", entry.get("role"))
        text = entry.get("value", entry.get("content"))
        if isinstance(text, list):
            text = "".join(_part(part, shown) for part in text)
        turns.append({"from": SPEAKERS.get(role, role) if isinstance(role, str) else role, "value": text})
    return turns, shown


def _part(part: Any, shown: list[Any]) -> str:
    """The text of one part; an image becomes a marker and is remembered."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if isinstance(part.get("text"), str):
        return part["text"]
    image = part.get("image_url", part.get("image"))
    if image is None and part.get("type") not in ("image", "image_url"):
        return ""
    if image is not None:
        shown.append(image.get("url") if isinstance(image, dict) else image)
    return f"{MARKER}\n"


def _images(record: Mapping[str, Any]) -> list[Any]:
    """What `image` and `images` name; null, "" and empty lists name nothing."""
    found: list[Any] = []
    for key in ("image", "images"):
        value = record.get(key)
        for one in value if isinstance(value, list | tuple) else [value]:
            name = one.get("path") if isinstance(one, dict) else one
            if name not in (None, ""):
                found.append(name)
    return found


def _show(turns: list[Any]) -> None:
    """Messages may name an image without saying where it stands: before the first question."""
    asked = [turn for turn in turns if isinstance(turn, dict) and turn["from"] == "human"]
    if asked and isinstance(asked[0]["value"], str) and not any(MARKER in str(turn["value"]) for turn in asked):
        asked[0]["value"] = f"{MARKER}\n{asked[0]['value']}"


def _with_system(turns: list[Any], system: Any) -> list[Any]:
    """The turns with the system's text, of the record or of a first turn, before the first question."""
    first = turns[0]
    if isinstance(first, dict) and first["from"] == "system":
        system, turns = system or first["value"], turns[1:]
    asked = next((turn for turn in turns if isinstance(turn, dict) and turn["from"] == "human"), None)
    if isinstance(system, str) and system.strip() and asked is not None and isinstance(asked["value"], str):
        marker, rest = (f"{MARKER}\n", asked["value"].replace(MARKER, "", 1).lstrip("\n"))
        shown = MARKER in asked["value"]
        asked["value"] = f"{marker if shown else ''}{system.strip()}\n{rest if shown else asked['value']}"
    return turns


def _place_objects(turns: Sequence[Any], objects: Any) -> tuple[str, list[list[float]]] | RecordFault | None:
    """Put names where <ref-object> stands; the boxes for every <bbox>."""
    said = [turn for turn in turns if isinstance(turn, dict) and isinstance(turn["value"], str)]
    num_refs, num_boxes = (sum(turn["value"].count(mark) for turn in said) for mark in (REF, BOX))
    if not num_refs and not num_boxes:
        return None
    if not isinstance(objects, dict):
        return RecordFault(f"the text has {REF if num_refs else BOX}, but the record has no objects", "field objects")
    refs, boxes, kind = objects.get("ref") or [], objects.get("bbox") or [], objects.get("bbox_type", "real")
    if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs) or num_refs > len(refs):
        names = len(refs) if isinstance(refs, list) else 0
        return RecordFault(f"{num_refs} {REF} in the text for {names} names", "field objects.ref")
    if not isinstance(kind, str) or kind not in CONVENTION_OF:
        return RecordFault(f"bbox_type {kind!r:.60} is not known", "field objects.bbox_type", ", ".join(CONVENTION_OF))
    if not isinstance(boxes, list) or num_boxes > len(boxes) or not all(map(_is_box, boxes)):
        return RecordFault(
            f"{num_boxes} {BOX} in the text for the boxes {boxes!r:.80}", "field objects.bbox", "[x0, y0, x1, y1]"
        )
    names = iter(refs)
    for turn in said:
        pieces = turn["value"].split(REF)
        turn["value"] = pieces[0] + "".join(next(names) + piece for piece in pieces[1:])
    return (CONVENTION_OF[kind], boxes[:num_boxes]) if num_boxes else None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(type(number) in (int, float) for number in value)


def _wrong_turns(turns: Sequence[Any], image: str | None) -> RecordFault | None:
    """What is wrong with the turns."""
    try:
        spoken = normalise(turns, has_image=False)
        for turn in spoken:
            turn.text.encode()
    except DataError as error:
        return RecordFault(error.what, error.where or "field conversations", error.known, error.do)
    except UnicodeEncodeError:
        return RecordFault("a turn holds half of a surrogate pair, which is no character", "field conversations")
    asked = sum(MARKER in turn.text for turn in spoken if turn.role == "user")
    wanted = f"one question with {MARKER}"
    if any(MARKER in turn.text for turn in spoken if turn.role == "assistant"):
        return RecordFault(
            f"an answer has {MARKER}; images are shown to the model, not said by it", "field conversations", wanted
        )
    if image is not None and asked != 1:
        said = f"{asked} turns have" if asked else "no turn has"
        return RecordFault(f"the record names an image, but {said} {MARKER}", "field conversations", wanted)
    if image is None and asked:
        return RecordFault(f"the text has {MARKER}, but the record names no image", "field image", '"image": file name')
    answers = [turn.text.strip() for turn in spoken if turn.role == "assistant"]
    if not any(answers):
        return RecordFault("the conversation has no answer", "field conversations")
    if not all(answers):
        return RecordFault(f"answer {answers.index('') + 1} of the conversation is empty", "field conversations")
    return None
