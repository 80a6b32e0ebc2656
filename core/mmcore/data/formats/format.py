"""What an annotation format is: how its files are read, what they can teach, and how they are recognised.

A `Format` is one value. The core registers its own in `mmcore.data.formats.registry`; plugins and extensions add
theirs. A recipe names a format by `Format.name`; a family asks which tasks a format serves and never parses again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmcore.contract.recipe import Recipe
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.index import Parser

TASKS: Mapping[str, str] = {
    "detect": "objects with boxes and category names",
    "segment": "objects with masks",
    "refer": "one object for an expression",
    "ground": "objects named by phrases in free words",
    "region_caption": "a description of a box in an image",
    "caption": "a description of an image",
    "grounded_caption": "a description of an image whose phrases have masks",
    "count": "objects like one that is shown, and how many there are",
    "converse": "questions and answers, with or without an image",
    "ask": "questions with answers to compare with, for evaluation",
    "track": "things followed through the frames of a video",
    "track_refer": "one thing of a video for an expression",
    "probe": "what hidden states know of an image",
}
"""What annotations can teach or measure, by the name that formats, families and own-data files use."""

Content = Literal["objects", "conversations", "questions", "grounded", "videos", "own"]
"""What the records are: images with objects (`mmcore.data.records`), conversations (`mmcore.data.formats.llava`),
questions that are read whole (`mmcore.evaluate.vqa`), images with parts that are spoken of (`mmcore.data.grounded`),
videos (`mmcore.data.videos`), or something that only the plugin reads which brings the format."""


class NoOptions(Recipe):
    """Of a format that has none."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a sample writer has written below its folder, as a recipe would name it."""

    annotations: str | tuple[str, ...]
    images: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One annotation format.

    Attributes:
        name: as recipes and own-data files name it.
        title: one line for people.
        content: what its records are.
        tasks: what they can serve, names of `TASKS`.
        parser: annotation files and typed options -> parser of the index; None for questions.
        options: what `options` of a source may hold for this format.
        files: what each of its annotation files or folders is, for errors.
        also: another ending under which the first file may be there instead.
        has_masks: whether objects have masks.
        evaluator: name of the protocol in `mmcore.evaluate.protocols` that judges it; None is not evaluated by itself.
        truth: what evaluators compare with: the annotation file as it is, or the records read from it.
        metric: the number by which a fine-tune keeps its best checkpoint; None is none.
        short: names that own-data files may use instead; several formats may share one and are told apart by content.
        sized_by_pictures: whether annotations may not say how large their images are, so that its parser takes what
            holds these as `images`.
        sniff: whether a glimpse of the first file is of this format.
        sample: writes a miniature below a folder.
    """

    name: str
    title: str
    content: Content
    tasks: tuple[str, ...]
    parser: Callable[[Sequence[Path], Any], Parser] | None = None
    options: type[Recipe] = NoOptions
    files: tuple[str, ...] = ("annotations",)
    also: str | None = None
    has_masks: bool = False
    evaluator: str | None = None
    truth: Literal["file", "records"] = "file"
    metric: str | None = None
    short: tuple[str, ...] = ()
    sized_by_pictures: bool = False
    sniff: Callable[[Glimpse], bool] | None = None
    sample: Callable[[Path], Written] | None = None

    def parsed(self, files: Sequence[Path], options: Any, images: Callable[[], Any]) -> Parser:
        """The parser of some files.

        Args:
            files: of the annotations.
            options: what the format understands.
            images: gives what holds the pictures; called only where the parser needs it.
        """
        assert self.parser is not None, "questions have no index"
        parser = self.parser(files, options)
        return replace(parser, images=images()) if self.sized_by_pictures else parser  # type: ignore[type-var]

    def serves(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Those of `tasks` that its records can serve."""
        return tuple(task for task in tasks if task in self.tasks)
