"""Boxes in text: one writer and one reader for everything that people and models write.

    BoxText   by templates: `cat-[0.100,0.200,0.300,0.400]&dog-[...]`, `<ref>cat</ref><box>(12,40),(310,999)</box>`
    BoxJson   a JSON list: `[{"bbox_2d": [12, 40, 310, 999], "label": "cat"}]`

Boxes go in and come out as xyxy pixels of the original image; the numbers in the text follow a `Convention`
(`mmcore.geometry.coordinates`). What a text begins to say about a box and does not finish is told, not lost.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from mmcore.contract.values import Box
from mmcore.geometry.coordinates import CONVENTIONS, Boxes, Convention, Size


class Found(NamedTuple):
    """One box in a text."""

    box_xyxy: Box
    """Pixels of the original image; not clipped."""
    name: str | None
    """What stands with it, without blanks around; None where only a box stands."""
    score: float | None
    start: int
    """First character of what was read, its name included."""
    end: int
    """One past the last."""


class ParsedBoxes(NamedTuple):
    """What a text says about boxes."""

    found: tuple[Found, ...]
    unread: tuple[str, ...]
    """Pieces that begin like coordinates and are none: cut short, in another form, or turned around."""

    @property
    def boxes_xyxy(self) -> Boxes:
        """(boxes, 4) pixels of the original image."""
        return np.array([one.box_xyxy for one in self.found], np.float64).reshape(-1, 4)


class Written(NamedTuple):
    """A text with boxes."""

    text: str
    rows: tuple[int, ...]
    """The boxes that are in it; one that lies outside the image is left out."""


class Grammar(Protocol):
    """How a family or a data set writes boxes: `BoxText` or `BoxJson`."""

    @property
    def convention(self) -> Convention:
        """What the numbers mean."""
        ...

    @property
    def prose(self) -> bool:
        """Whether boxes stand within sentences, where no name can be told from other words."""
        ...

    def write(self, boxes_xyxy: Boxes, size: Size, names: Sequence[str] | None = None) -> Written:
        """Boxes in pixels of an image of this size, with their names, as text."""
        ...

    def read(self, text: str, size: Size) -> ParsedBoxes:
        """Every box in a text about an image of this size."""
        ...


@dataclass(frozen=True, kw_only=True)
class BoxText:
    """Boxes in a text, by templates.

    Attributes:
        convention: what the numbers mean.
        box: `{0}` to `{3}` are the numbers; everything else stands as it is.
        named: how a name and its box stand together.
        between: stands between boxes; also where a text is cut before it is read.
        nothing: what is written where no box is left.
        exact: numbers have exactly the convention's digits, with no blanks around them; otherwise any number will do.
        prose: boxes stand within sentences; what comes before one is not read as its name.
    """

    convention: Convention
    box: str = "[{0},{1},{2},{3}]"
    named: str = "{name}-{box}"
    between: str = "&"
    nothing: str = "None"
    exact: bool = True
    prose: bool = False

    def write(self, boxes_xyxy: Boxes, size: Size, names: Sequence[str] | None = None) -> Written:
        """Boxes as text, in their order, with `names` where they are given."""
        numbers = self.convention.from_pixels(boxes_xyxy, size)
        rows = np.flatnonzero(self.convention.has_place(numbers, size)).tolist()
        pieces = []
        for row in rows:
            box = self.box.format(*(_digits(number, self.convention.decimals) for number in numbers[row].tolist()))
            pieces.append(box if names is None else self.named.replace("{box}", box).replace("{name}", names[row]))
        return Written(self.between.join(pieces) if pieces else self.nothing, tuple(rows))

    def read(self, text: str, size: Size) -> ParsedBoxes:
        """Every box in the text; a box whose corners are turned around is not one."""
        found: list[Found] = []
        unread: list[str] = []
        at = 0
        for match in self._pattern.finditer(text):
            unread += self._suspects(text[at : match.start()])
            at = match.end()
            numbers = np.array([[float(match[f"n{i}"]) for i in range(4)]])
            box = self.convention.to_pixels(numbers, size)[0].tolist()
            if box[2] < box[0] or box[3] < box[1]:
                unread.append(match[0])
                continue
            name = None if self.prose else (match["name"] or "").strip() or None
            found.append(Found(tuple(box), name, None, match.start(), match.end()))
        return ParsedBoxes(tuple(found), tuple(unread + self._suspects(text[at:])))

    def _suspects(self, rest: str) -> list[str]:
        """What looks like the beginning of a box and was not read as one, to the next of these or the end."""
        starts = [match.start() for match in self._opening.finditer(rest)]
        return [rest[start:stop].strip() for start, stop in zip(starts, [*starts[1:], len(rest)])]

    @cached_property
    def _opening(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.box.split("{", 1)[0]) + r"\s*-?\.?\d")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        decimals = self.convention.decimals
        number, blank = r"-?(?:\d+\.?\d*|\.\d+)", r"\s*"
        if self.exact:
            blank = ""
            if decimals is not None:
                number = r"\d+" + (rf"\.\d{{{decimals}}}" if decimals else "")
        first, *rest = re.split(r"\{([0-3])\}", self.box)
        box = re.escape(first)
        for place, literal in zip(rest[::2], rest[1::2]):
            box += f"{blank}(?P<n{place}>{number}){blank}{self._literal(literal)}"
        if self.prose:
            return re.compile(box)
        before, after = self.named.split("{box}")
        opening, closing = (re.escape(part) for part in before.split("{name}"))
        # A name ends before the next box begins, and does not reach back over the last separator.
        stop = re.escape(self.box[0] + self.between[:1])
        name = rf"(?:{opening}(?P<name>[^{stop}]*?){closing})?"
        return re.compile(f"{name}{box}{re.escape(after)}" if after else f"{name}{box}")

    def _literal(self, text: str) -> str:
        return re.escape(text) if self.exact else r"\s*".join(re.escape(part) for part in text.split())


@dataclass(frozen=True, kw_only=True)
class BoxJson:
    """Boxes in a text as a JSON list of objects; what a text is cut in is read object by object.

    Attributes:
        convention: what the numbers mean.
        box: key of the four numbers.
        name: key of the name.
        score: key of the score, where models write one.
        fence: whether the list stands in a Markdown code block.
    """

    convention: Convention
    box: str = "bbox_2d"
    name: str = "label"
    score: str = "score"
    fence: bool = False
    prose = False

    def write(self, boxes_xyxy: Boxes, size: Size, names: Sequence[str] | None = None) -> Written:
        """Boxes as a JSON list, in their order, with `names` where they are given."""
        numbers = self.convention.from_pixels(boxes_xyxy, size)
        rows = np.flatnonzero(self.convention.has_place(numbers, size)).tolist()
        entries = [
            {self.box: [int(n) if self.convention.decimals == 0 else n for n in numbers[row].tolist()]}
            | ({} if names is None else {self.name: names[row]})
            for row in rows
        ]
        text = json.dumps(entries, ensure_ascii=False)
        return Written(f"```json\n{text}\n```" if self.fence else text, tuple(rows))

    def read(self, text: str, size: Size) -> ParsedBoxes:
        """Every object of the text that has a box; also of a list that was cut short."""
        found: list[Found] = []
        unread: list[str] = []
        decoder = json.JSONDecoder()
        at = text.find("{")
        while at >= 0:
            try:
                entry, end = decoder.raw_decode(text, at)
            except ValueError:
                end = text.find("{", at + 1)
                piece = text[at : end if end >= 0 else len(text)].strip()
                unread += [piece] if f'"{self.box}"' in piece else []
                at = end
                continue
            one = self._found(entry, size, at, end)
            if one is not None:
                found.append(one)
            elif isinstance(entry, dict) and self.box in entry:
                unread.append(text[at:end])
            at = text.find("{", end)
        return ParsedBoxes(tuple(found), tuple(unread))

    def _found(self, entry: Any, size: Size, start: int, end: int) -> Found | None:
        numbers = entry.get(self.box) if isinstance(entry, dict) else None
        if not (isinstance(numbers, list) and len(numbers) == 4 and all(_is_number(value) for value in numbers)):
            return None
        box = self.convention.to_pixels(np.array([numbers], np.float64), size)[0].tolist()
        if box[2] < box[0] or box[3] < box[1]:
            return None
        name, score = entry.get(self.name), entry.get(self.score)
        sure = float(score) if _is_number(score) else None
        return Found(tuple(box), None if name is None else str(name).strip(), sure, start, end)


def read_rate(parsed: Iterable[ParsedBoxes]) -> float:
    """Share of the boxes in generated texts that could be read; 1 where no text has any."""
    pairs = [(len(one.found), len(one.unread)) for one in parsed]
    read, lost = (sum(column) for column in zip(*pairs)) if pairs else (0, 0)
    return read / (read + lost) if read + lost else 1.0


def unlike_itself(
    grammar: Grammar, boxes_xyxy: Boxes, size: Size, names: Sequence[str] | None = None, *, slack: float = 1e-6
) -> str | None:
    """Why an answer cannot be read back as it was meant: nothing when it can.

    A family that writes boxes as text asks this about its own training answers before it learns them.

    Args:
        grammar: how the answer is written.
        boxes_xyxy: pixels of the original image.
        size: of the original image.
        names: of the boxes.
        slack: of floating point, pixels.
    """
    written = grammar.write(boxes_xyxy, size, names)
    parsed = grammar.read(written.text, size)
    rows = list(written.rows)
    if parsed.unread or len(parsed.found) != len(rows):
        return f"{len(rows)} boxes were written and {len(parsed.found)} can be read: {written.text!r}"
    height, width = size
    meant = np.clip(np.asarray(boxes_xyxy, np.float64)[rows], 0, (width, height, width, height))
    off = np.abs(parsed.boxes_xyxy - meant)
    allowed = np.array(grammar.convention.max_error(size) * 2) + slack
    if (off > allowed).any():
        return f"a box comes back {off.max():.3g} pixels away: {written.text!r}"
    if names is not None and not grammar.prose:
        for row, one in zip(rows, parsed.found, strict=True):
            if one.name != names[row].strip():
                return f"the name {names[row]!r} comes back as {one.name!r}"
    return None


def rewrite(text: str, grammar: Grammar, to: Grammar, size: Size) -> str:
    """The text with every box that `grammar` reads written as `to` writes it; all else stays as it is."""
    pieces, at = [], 0
    for one in grammar.read(text, size).found:
        names = None if one.name is None else [one.name]
        written = to.write(np.array([one.box_xyxy], np.float64), size, names)
        pieces += [text[at : one.start], written.text]
        at = one.end
    return "".join([*pieces, text[at:]])


GRAMMARS: Mapping[str, Grammar] = {
    "three decimals": BoxText(convention=CONVENTIONS["three decimals"]),  # Griffon
    "brackets": BoxText(
        convention=CONVENTIONS["padded fractions"], box="[{0}, {1}, {2}, {3}]", named="{name} {box}", between="; ",
        exact=False, prose=True,
    ),
    "qwen": BoxText(
        convention=CONVENTIONS["thousandths"], box="<box>({0},{1}),({2},{3})</box>", named="<ref>{name}</ref>{box}",
        between="", exact=False,
    ),
    "qwen2": BoxText(
        convention=CONVENTIONS["thousandths"], box="<|box_start|>({0},{1}),({2},{3})<|box_end|>",
        named="<|object_ref_start|>{name}<|object_ref_end|>{box}", between="", exact=False,
    ),
    "json thousandths": BoxJson(convention=CONVENTIONS["thousandths"]),  # Qwen3-VL
    "json pixels": BoxJson(convention=Convention(decimals=0)),  # Qwen2.5-VL, where the image is not resized
}  # fmt: skip
"""Ways to write boxes in text, by name: Griffon's, LLaVA-1.5's, those of the Qwen-VL generations."""


def _digits(number: float, decimals: int | None) -> str:
    return repr(number) if decimals is None else f"{number:.{decimals}f}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
