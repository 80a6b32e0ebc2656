"""From a record to what is said: questions from the banks, answers from the annotations, marks for boxes and masks.

    gcg            one caption; each phrase in <p> ... </p>, its [SEG] behind it
    segment, refer a turn for each class or expression that was drawn, at most so many; the answer is a [SEG]
    parts          the same of annotations of objects and parts, "obj part" or "the part of the obj" (PACO-LVIS)
    named_parts    the same with names as they stand: "_(" tells no words of several meanings apart (PASCAL-Part)
    region         a turn for each box, at most ten, in random order: <bbox> in the question, its words in the answer
    region_intro   the same after an introduction, the question being nothing but the region
    region_all     the same, the boxes beyond ten being handed on unasked
    region_group   that, and first all boxes together, answered by the caption
    caption        one caption of the whole image

The order of the draws is that of the published data sets, so that recorded ones can be played back.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from mmcore.contract.values import Phrase, Turn
from mmcore.data.chance import Chance
from mmcore.data.grounded import Grounded, Part
from mmcore.errors import DataError

from mmcore_glamm.data.manners import Manner
from mmcore_glamm.data.templates import Banks
from mmcore_glamm.tokens import OVERVIEW

MAX_REGIONS = 10
"""Boxes of a conversation (`max_gt_per_img`)."""
_MARKS = re.compile(r"(?:<p> (?P<phrase>.*?) </p> )?(?P<seg>\[SEG\])|(?P<box><bbox>)", re.DOTALL)


class Spoken(NamedTuple):
    """A conversation about one record."""

    turns: tuple[Turn, ...]
    parts: tuple[Part, ...]
    """What is spoken of: in the order of the `[SEG]`s, or of the first `<bbox>` of each."""
    boxes: tuple[int, ...]
    """Number of the part of each `<bbox>` of the text, in order."""
    asked: tuple[str, ...]
    """The questions without what stands before the first, as the released code keeps them."""

    def phrases(self, *, cut: bool = False) -> tuple[Phrase, ...]:
        """Which pieces of the turns mean which parts; with `cut` the last may lack a mark, as published spans cut some.

        Raises:
            DataError: the text itself holds a mark.
        """
        found, segs, boxes = [], 0, iter(self.boxes)
        for number, turn in enumerate(self.turns):
            for mark in _MARKS.finditer(turn.text):
                part = next(boxes, -1) if mark["box"] else segs
                segs += bool(mark["seg"])
                if not 0 <= part < len(self.parts):
                    raise DataError("the annotation's own text holds [SEG] or <bbox>", do="take it out of the text")
                found.append(Phrase(number, *mark.span("phrase" if mark["phrase"] else 0), (part,)))
        if segs != (len(self.parts) if self.has_masks else 0) and not (cut and 0 < segs < len(self.parts)):
            raise DataError("the annotation's own text holds [SEG] or <bbox>", do="take it out of the text")
        return tuple(found)

    @property
    def has_masks(self) -> bool:
        """Whether its parts are masks to be drawn."""
        return not self.boxes and any("[SEG]" in turn.text for turn in self.turns)


def speak(record: Grounded, manner: Manner, most: int, banks: Banks, chance: Chance) -> Spoken | None:
    """The conversation about a record; None where nothing of it can be asked.

    Args:
        record: the image and its parts.
        manner: see the module's text.
        most: classes or expressions of one conversation.
        banks: the wordings.
        chance: what is drawn.
    """
    if not record.parts:
        return None
    match manner:
        case "gcg":
            return _grounded_caption(record, banks, chance)
        case "segment" | "refer" | "parts" | "named_parts":
            return _segmentation(record, manner, most, banks, chance)
        case "caption":
            caption = record.parts[chance.one(len(record.parts)) if len(record.parts) > 1 else 0].text
            return _of([(OVERVIEW, _pick(banks["caption"], chance).strip(), caption)])
        case _:
            return _regions(record, manner, banks, chance)


def marked_caption(caption: str, spans: Sequence[tuple[int, int]]) -> str:
    """A caption with its phrases marked, from the last one backwards.

    >>> marked_caption("a cat sleeps", [(0, 5)])
    '<p> a cat </p> [SEG] sleeps'
    """
    for start, end in sorted(spans, key=lambda span: span[0], reverse=True):
        caption = f"{caption[:start]}<p> {caption[start:end]} </p> [SEG]{caption[end:]}"
    return caption


def _grounded_caption(record: Grounded, banks: Banks, chance: Chance) -> Spoken:
    question = _pick(banks["gcg"], chance).strip()
    parts = sorted(record.parts, key=lambda part: part.span[0] if part.span else 0)
    spans = [part.span for part in parts if part.span is not None]
    return _of([(OVERVIEW, question, marked_caption(record.caption, spans))], parts)


def _segmentation(record: Grounded, manner: Manner, most: int, banks: Banks, chance: Chance) -> Spoken:
    drawn = [record.parts[number] for number in chance.some(len(record.parts), most)]
    if manner in ("parts", "named_parts"):
        drawn = [part._replace(text=_part_name(part.text, manner == "parts", chance)) for part in drawn]
    said = []
    for part in drawn:
        question = _pick(banks["segment"], chance).replace("{class_name}", part.text.strip().lower())
        said.append(("" if said else OVERVIEW, question, _pick(banks["answer"], chance)))
    return _of(said, drawn)


def _part_name(name: str, senses: bool, chance: Chance) -> str:
    """What an object or a part of one is called; `senses`: "_(" and what follows tells meanings of a word apart."""
    thing, colon, part = name.strip().partition(":")
    if senses:
        thing, part = thing.split("_(")[0], part.split("_(")[0]
    if not colon:
        return thing
    return f"{thing} {part}" if chance.coin() else f"the {part} of the {thing}"


def _regions(record: Grounded, manner: Manner, banks: Banks, chance: Chance) -> Spoken:
    drawn = [record.parts[number] for number in chance.order(len(record.parts))]
    asked = drawn[:MAX_REGIONS]
    said, boxes = [], []
    start = banks["region_intro"][0] if manner == "region_intro" else OVERVIEW
    if manner == "region_group":
        places = "".join(f"region{number} <bbox>," for number in range(1, len(asked) + 1))
        said.append((start, _pick(banks["region_group"], chance).strip().replace("<region>", places), record.caption))
        boxes += range(len(asked))
    wordings = ("<region>",) if manner == "region_intro" else banks["region"]
    for number, part in enumerate(asked):
        question = _pick(wordings, chance).strip().replace("<region>", f"region{number + 1} <bbox>")
        said.append(("" if said else start, question, part.text))
        boxes.append(number)
    return _of(said, drawn if manner in ("region_group", "region_all") else asked, boxes)


def _pick(bank: Sequence[str], chance: Chance) -> str:
    return bank[chance.one(len(bank))]


def _of(said: Sequence[tuple[str, str, str]], parts: Sequence[Part] = (), boxes: Sequence[int] = ()) -> Spoken:
    turns = []
    for before, question, answer in said:
        turns += [Turn("user", before + question), Turn("assistant", answer)]
    return Spoken(tuple(turns), tuple(parts), tuple(boxes), tuple(question for _, question, _ in said))
