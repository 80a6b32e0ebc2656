"""Every annotation format that a run knows: the core's, and those that plugins and extensions bring.

formats = Formats.of(extra)            # extra: Format values of plugins
formats["COCO instances"].tasks        # ("detect", "segment")
formats.recognise(path).name           # by content
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from mmcore.data.formats import (
    captions,
    coco_dialects,
    grounded_captions,
    imagefolder,
    instructions,
    llava,
    odvg,
    omnilabel,
    questions,
    refer,
    sa1b,
    voc,
    yolo,
    ytvis,
)
from mmcore.data.formats.format import TASKS, Format
from mmcore.data.formats.glimpse import Glimpse, look
from mmcore.errors import DataError, PluginError, suggest

CORE: tuple[Format, ...] = (
    *coco_dialects.FORMATS,
    *refer.FORMATS,
    *sa1b.FORMATS,
    *captions.FORMATS,
    *llava.FORMATS,
    *instructions.FORMATS,
    *yolo.FORMATS,
    *voc.FORMATS,
    *odvg.FORMATS,
    *omnilabel.FORMATS,
    *imagefolder.FORMATS,
    *questions.FORMATS,
    *grounded_captions.FORMATS,
    *ytvis.FORMATS,
)
"""The core's formats; of several that recognise a file the last one is taken."""


class Formats(Mapping[str, Format]):
    """Formats by name, in the order in which they were registered."""

    def __init__(self, formats: Iterable[Format]) -> None:
        self._formats: dict[str, Format] = {}
        for format in formats:
            if format.name in self._formats:
                raise PluginError(
                    f"two annotation formats have the name {format.name!r}", do="rename one, or leave its plugin out"
                )
            for task in format.tasks:
                if task not in TASKS:
                    raise PluginError(
                        f"format {format.name!r} serves an unknown task {task!r}",
                        known=TASKS,
                        do=suggest(task, TASKS, "choose among these"),
                    )
            self._formats[format.name] = format

    @classmethod
    def of(cls, extra: Iterable[Format] = ()) -> Self:
        """The core's formats and some more.

        Raises:
            PluginError: two have one name, or a task does not exist.
        """
        return cls((*CORE, *extra))

    def __getitem__(self, name: str) -> Format:
        return self._formats[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def serving(self, tasks: Sequence[str]) -> list[str]:
        """Names of the formats that serve at least one of these tasks."""
        return [name for name, format in self.items() if format.serves(tasks)]

    def named(self, name: str, where: str, tasks: Sequence[str] | None = None) -> Format:
        """The format with this name.

        Args:
            name: as the recipe has it.
            where: in the recipe, for errors.
            tasks: it should serve at least one of them; None is any.

        Raises:
            DataError: there is none, or it serves none of the tasks.
        """
        known = list(self) if tasks is None else self.serving(tasks)
        format = self.get(name)
        if format is None:
            raise DataError(
                f"the format {name!r} is not known",
                where=where,
                known=known,
                do=suggest(name, known, "choose one of these, or see `mmcore data formats`"),
            )
        if tasks is not None and not format.serves(tasks):
            raise DataError(
                f"the format {name!r} serves {', '.join(format.tasks)}; wanted is {' or '.join(tasks)}",
                where=where,
                known=known,
                do="choose one of these formats, or another family: see `mmcore data formats`",
            )
        return format

    def recognise(self, path: Path, among: Sequence[str] | None = None) -> Format:
        """The format of an annotation file or folder, by its content.

        Args:
            path: the file or folder.
            among: names to choose from; None is all.

        Raises:
            MissingDataError: it is not there.
            DataError: it is of no format that can be recognised.
        """
        glimpse = look(path)
        listed = [format for name, format in self.items() if among is None or name in among]
        found = [format for format in listed if format.sniff is not None and format.sniff(glimpse)]
        if not found:
            raise DataError(
                f"it is not clear which annotation format this is: {_described(glimpse)}",
                where=path,
                known=[format.name for format in listed if format.sniff is not None],
                do="save it as UTF-8"
                if _is_utf16(glimpse)
                else "name it with `format:`, or convert it to one of these; `mmcore data formats` describes them",
            )
        return found[-1]


_KINDS = {"folder": "a folder", "object": "a JSON object", "list": "a JSON list", "lines": "JSON Lines", "xml": "XML",
          "pickle": "a pickle", "other": "neither JSON nor XML"}  # fmt: skip


def _described(glimpse: Glimpse) -> str:
    """What a file holds, with the keys by which its author would know it."""
    if _is_utf16(glimpse):
        return "text in UTF-16"
    keys = list(glimpse.parts) or (list(glimpse.first) if isinstance(glimpse.first, dict) else [])
    having = "whose records have" if isinstance(glimpse.first, dict) else "that has"
    return _KINDS[glimpse.kind] + (f" {having} {', '.join(map(str, keys[:8]))}" if keys else "")


def _is_utf16(glimpse: Glimpse) -> bool:
    if glimpse.kind != "other":
        return False
    with open(glimpse.path, "rb") as file:
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")
