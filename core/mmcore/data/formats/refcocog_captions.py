"""RefCOCOg turned into grounded captions (GranD-f): every record a dictionary of one entry, under the image's id.

    [{"123": {"img_file_name": "COCO_...jpg", "caption": "...", "refs": [{"sentence": "the cat",
                                                                          "segmentation": [[x, y, ...], ...]}]}}]

A phrase is where its sentence occurs in the caption. Sentences overlap; two ways to tell them apart:

    clean       a phrase ends where the next one begins; of phrases that begin together the longest stays
    published   searched for with its capitals in a caption without any, then shortened by the published rule, which
                leaves empty and misplaced phrases (reference glamm.md, Q13); for comparison with the published code
"""

from dataclasses import dataclass
from typing import Any

from mmcore.data.formats.format import Format
from mmcore.data.formats.grounded_captions import GroundedCaptions, SpanOptions, broken
from mmcore.data.formats.plain_values import clean_segmentation
from mmcore.data.grounded import Grounded, Part
from mmcore.data.records import Defect, file_name_defect


@dataclass(frozen=True, slots=True)
class RefCocoGCaptions(GroundedCaptions):
    """Parser of one file.

    Attributes:
        path: the JSON file.
        checked: separate overlapping phrases cleanly; False does it as published.
    """

    @property
    def format(self) -> str:
        return "refcocog-captions/1"

    def understand(self, value: Any, number: int) -> Grounded:
        """A record of the file, with whatever is wrong with it."""
        if not isinstance(value, dict) or len(value) != 1 or not isinstance(entry := next(iter(value.values())), dict):
            return broken("?", number, "the whole record", "the record is not a dictionary of one entry")
        id_, name, caption = next(iter(value)), entry.get("img_file_name"), entry.get("caption")
        if problem := file_name_defect(name):
            return broken(str(name), id_, "img_file_name", problem)
        refs = entry.get("refs")
        if not isinstance(caption, str) or not isinstance(refs, list):
            return broken(str(name), id_, "caption", "no caption, or no list of refs")
        said = caption.strip('"').strip()
        defects: list[Defect] = []
        parts: list[Part] = []
        for ref in refs:
            sentence = ref.get("sentence") if isinstance(ref, dict) else None
            shapes = clean_segmentation(ref.get("segmentation")) if isinstance(ref, dict) else None
            if not isinstance(sentence, str) or not isinstance(shapes, list):
                defects.append(Defect(f"sentence {sentence!r:.40}", "refs", "no sentence, or no polygons", True))
            elif sentence.lower() in said.lower():
                parts.append(Part(sentence, None, (tuple(shapes),)))
        spread = _clean(parts, said.lower()) if self.checked else _published(parts, said)
        lost = len(parts) - len(spread)
        if lost:
            defects.append(Defect("refs", "sentence", f"{lost} phrases begin where a longer one does", False))
        return Grounded(str(name), id_, tuple(spread), said.lower(), tuple(defects))


def _clean(parts: list[Part], caption: str) -> list[Part]:
    placed = [(caption.find(part.text.lower()), part) for part in parts]
    spans = sorted(((start, start + len(part.text), part) for start, part in placed), key=lambda one: (one[0], -one[1]))
    firsts = [one for number, one in enumerate(spans) if not number or one[0] > spans[number - 1][0]]
    kept: list[Part] = []
    for number, (start, end, part) in enumerate(firsts):
        following = firsts[number + 1][0] if number + 1 < len(firsts) else len(caption)
        words = caption[start : min(end, following)].rstrip()
        if words:
            kept.append(part._replace(text=words, span=(start, start + len(words))))
    return kept


def _published(parts: list[Part], caption: str) -> list[Part]:
    """The published rule: shortened in the order of the file, labels edited in the order of the text."""
    lowered = caption.lower()
    starts = [lowered.find(part.text) for part in parts]
    spans = [[start, start + len(part.text) if start != -1 else -1] for start, part in zip(starts, parts)]
    order = sorted(range(len(parts)), key=lambda number: spans[number][0])
    ordered = [parts[number] for number in order]
    texts = [part.text for part in ordered]
    for first in range(len(spans)):
        for second in range(first + 1, len(spans)):
            if spans[first][1] >= spans[second][0]:
                spans[first][1] = spans[second][0] - 1
                texts[first] = caption[spans[first][0] : spans[first][1] + 1]
                break
    placed = [(spans[number][0], spans[number][1]) for number in order]
    return [part._replace(text=text, span=span) for part, text, span in zip(ordered, texts, placed)]


# ---- formats ----


REFCOCOG_GCG = "RefCOCOg GCG"
FORMATS = (
    Format(
        name=REFCOCOG_GCG,
        title="RefCOCOg's captions with the expressions in them",
        content="grounded",
        tasks=("grounded_caption",),
        parser=lambda files, options: RefCocoGCaptions(files[0], checked=not options.published_spans),
        options=SpanOptions,
        has_masks=True,
    ),
)
