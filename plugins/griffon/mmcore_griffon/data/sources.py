"""From a record to a sample: the picture read, the question posed, words to tokens, an example cut out.

BoxSource     training: wording, classes and example are drawn from the draw's seed
AskedSource   evaluation: one fixed question for each class list, expression, place or example; the answer is open
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from mmcore.contract.protocols import DataSource, Shown
from mmcore.contract.values import (
    CROP,
    MAIN,
    Box,
    ConversationSample,
    Draw,
    Images,
    Phrase,
    Region,
    Turn,
    VisualPrompt,
)
from mmcore.data.formats.box_lines import Kind
from mmcore.data.images import MAX_PIXELS
from mmcore.data.named_boxes import Scene, Scenes
from mmcore.data.pictures import Pictures, Rgb, cut_out, read_shaped, resized
from mmcore.data.shares import Part
from mmcore.data.shown import shown_regions
from mmcore.language.conversation import MARKER
from mmcore.language.processor import Processor
from mmcore.vision.clip_images import ClipImages

from mmcore_griffon.answers import BOXES
from mmcore_griffon.data.questions import Asked, description, detection, expression, listed, pose, similar

WORDS_PER_BOX = 30
"""What the published samplers take a box for."""


@dataclass(frozen=True)
class Reader:
    """How a variant and stage read records; shared by all sources.

    Attributes:
        processor: words to tokens, pictures to pixels.
        crops: an example to what its encoder takes.
        apart: the example has an encoder of its own; else the main tower sees it as a second picture.
        wordings: bank -> questions.
        max_pixels: larger pictures are refused before decoding.
    """

    processor: Processor
    crops: ClipImages
    apart: bool
    wordings: Mapping[str, Sequence[str]]
    max_pixels: int = MAX_PIXELS

    @property
    def side(self) -> int:
        """Of the square that the model sees, pixels."""
        return self.processor.pixels.size

    def images(self, rgb: Rgb, scene: Scene, example: Box | None) -> Images:
        """The picture, and the example that is cut out of it, by role."""
        whole = self.processor.tower(rgb)
        if example is None:
            return {MAIN: (whole,)}
        crop = self.crops(cut_out(rgb, scene.size, example))
        return {MAIN: (whole,), CROP: (crop,)} if self.apart else {MAIN: (whole, crop)}


@dataclass(frozen=True)
class BoxSource(DataSource):
    """Records with boxes, for training.

    Args:
        name: under which the recipe knows it.
        scenes: the records.
        images: folder below which their pictures lie.
        reader: how they are read.
        kinds: how a record may be asked; one is drawn.
        image_words: what the length of a record counts for its picture.
    """

    name: str
    scenes: Scenes
    images: Pictures
    reader: Reader
    kinds: tuple[Kind, ...]
    image_words: int = 0

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def fingerprint(self) -> str:
        """Content hash of the records, and how they are asked."""
        return f"{self.scenes.fingerprint}+{'+'.join(self.kinds)}"

    def annotations(self) -> Scenes:
        """The records."""
        return self.scenes

    def lengths(self) -> np.ndarray:
        """(records,) as the published samplers count them: 30 a box; a description counts for one."""
        boxes = np.ones(len(self), np.int64) if self.kinds == ("REG",) else self.scenes.num_boxes().astype(np.int64)
        return np.maximum(1, WORDS_PER_BOX * boxes + self.image_words)

    def sample(self, draw: Draw) -> ConversationSample:
        """Record `draw.position`, with all randomness from `draw.seed`.

        Raises:
            DataError: the record or its picture cannot be used; names file, record and field.
        """
        scene = self.scenes[draw.position]
        rng = np.random.default_rng(draw.seed)
        kind = self.kinds[int(rng.integers(len(self.kinds))) if len(self.kinds) > 1 else 0]
        asked = pose(kind, scene, self.reader.wordings, rng, self.reader.side, self.scenes.categories())
        turns = self.reader.processor.exchange(asked.question, asked.answer)
        encoded = self.reader.processor.conversation(turns, has_image=True, where=scene.where)
        rgb = read_shaped(self.images, scene.image, scene.size, scene.where, self.reader.max_pixels)
        height, width = rgb.shape[:2]
        return ConversationSample(
            encoded=encoded,
            turns=turns,
            images=self.reader.images(rgb, scene, asked.example),
            draw=draw,
            image_id=scene.id,
            original_size=(height, width),
            regions=regions(asked, scene.size, (height, width)),
            phrases=phrases(asked) if kind != "REG" else (),
            prompts=prompts(asked, scene.size, (height, width)),
        )


def regions(asked: Asked, size: tuple[int, int], now: tuple[int, int]) -> tuple[Region, ...]:
    """The boxes that a question or answer speaks of, in pixels of the picture on disk."""
    names = asked.names or (None,) * len(asked.boxes)
    return tuple(Region(resized(box, size, now), text=name) for box, name in zip(asked.boxes, names, strict=True))


def prompts(asked: Asked, size: tuple[int, int], now: tuple[int, int]) -> tuple[VisualPrompt, ...]:
    """The box that an example is cut from, in pixels of the picture on disk."""
    if asked.example is None:
        return ()
    return (VisualPrompt("box", torch.tensor(resized(asked.example, size, now)).view(2, 2)),)


def phrases(asked: Asked) -> tuple[Phrase, ...]:
    """Which piece of the answer is which region."""
    found, start = [], 0
    for number, piece in enumerate(asked.answer.split(BOXES.between) if asked.boxes else ()):
        found.append(Phrase(1, start, start + len(piece), (number,)))
        start += len(piece) + len(BOXES.between)
    return tuple(found)


# ---- evaluation ----


class Target(NamedTuple):
    """What one question of an evaluation is about."""

    position: int
    """Of the record."""
    part: int
    """Number of the name in the record; of the list of classes where those are asked for."""


@dataclass(frozen=True)
class AskedSource(DataSource):
    """Questions about records with boxes, their answers left open.

    Args:
        name: of the validation set.
        scenes: the records.
        images: folder below which their pictures lie.
        reader: how they are read.
        kind: how records are asked.
        wording: of every question.
        targets: what is asked, in order; its number is the question's id where a picture has several.
        lists: of classes, one a question, for detection.
        max_new_tokens: longest answer.
        answer_format: say in questions of detection how to answer; the published evaluation does not.
    """

    name: str
    scenes: Scenes
    images: Pictures
    reader: Reader
    kind: Kind
    wording: str
    targets: tuple[Target, ...]
    lists: tuple[tuple[str, ...], ...]
    max_new_tokens: int
    answer_format: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def fingerprint(self) -> str:
        """Content hash of the records and of what is asked."""
        return f"{self.scenes.fingerprint}+{self.kind}+{self.wording}{self.answer_format:d}"

    def annotations(self) -> Part:
        """The record of each question."""
        return self._records

    @cached_property
    def _records(self) -> Part:
        return Part(self.scenes, np.array([target.position for target in self.targets], np.int64))

    def sample(self, draw: Draw) -> ConversationSample:
        """Question `draw.position`; nothing about it is random.

        Raises:
            DataError: its record or picture cannot be used; names file, record and field.
        """
        scene, asked = self._asked(draw.position)
        question, _ = self.reader.processor.exchange(asked.question, "-")
        turns = (question, Turn("assistant", ""))
        rgb = read_shaped(self.images, scene.image, scene.size, scene.where, self.reader.max_pixels)
        return ConversationSample(
            encoded=self.reader.processor.asked(turns),
            turns=turns,
            images=self.reader.images(rgb, scene, asked.example),
            draw=draw,
            image_id=scene.id,
            original_size=scene.size,  # boxes are judged in the record's pixels
            record_id=draw.position if self.kind != "DET" or len(self.lists) > 1 else None,
            max_new_tokens=self.max_new_tokens,
        )

    def shown(self, position: int) -> Shown:
        """The picture with the boxes, or the words, that are wanted."""
        scene, asked = self._asked(position)
        rgb = read_shaped(self.images, scene.image, scene.size, scene.where, self.reader.max_pixels)
        question = "" if self.kind == "DET" else asked.question.replace(MARKER, "").strip()
        if self.kind == "REG":
            return Shown(rgb, question=question, answer=asked.answer)
        example = None if asked.example is None else Region(asked.example, text="like this")
        boxes = regions(asked, scene.size, scene.size)
        return shown_regions(rgb, boxes, question=question, size=scene.size, example=example)

    def _asked(self, position: int) -> tuple[Scene, Asked]:
        place, part = self.targets[position]
        scene, wording, side = self.scenes[place], self.wording, self.reader.side
        match self.kind:
            case "DET":
                return scene, detection(scene, wording, self.lists[part], side, answer_format=self.answer_format)
            case "RANDDET":
                return scene, listed(scene, wording, list(dict.fromkeys(scene.names)), side)
            case "REG":
                return scene, description(scene, wording, part, side)
            case "VISJ":
                return scene, similar(scene, wording, part, 0, side)
            case _:
                return scene, expression(scene, wording, part, side)


def targets(kind: Kind, scenes: Scenes, lists: Sequence[Sequence[str]]) -> tuple[Target, ...]:
    """Every question of a validation set; a record that cannot be used stays one, so that it is told."""
    found: list[Target] = []
    for position in range(len(scenes)):
        if kind == "DET":
            parts: Sequence[int] = range(len(lists))
        elif kind == "RANDDET" or scenes.unusable(position):
            parts = (0,)
        else:
            scene = scenes[position]
            parts = [number for number, boxes in enumerate(scene.boxes) if boxes or kind in ("VG", "REC")]
        found += [Target(position, part) for part in parts]
    return tuple(found)
