"""A conversation in a terminal or through a pipe: lines in, answers out.

    photo.jpg                 a path alone: speak of this picture from now on (also dropped into the window)
    photo.jpg What is red?    a picture and the first question about it
    What else?                a question; what was said before is remembered
    /example crop.jpg         show what is spoken of, where the family takes it
    /new  /quit  /help

Through a pipe the same lines are read, only questions and answers are written, and the first mistake ends it.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.contract.values import Prediction
from mmcore.data.images import read_image
from mmcore.errors import UsageError, suggest
from mmcore.runs.conversation import Conversation, can_be_shown
from mmcore.runs.load import Predictor
from mmcore.runs.predict import SUFFIXES, Example, free_stem, missing_picture, read_example

if TYPE_CHECKING:
    import numpy as np

HELP = """\
  photo.jpg                 speak of this picture (drop the file into the window)
  photo.jpg What is red?    a picture and the first question about it
  What else?                the next question; what was said is remembered
  /new                      forget what was said, keep the picture
  /none                     speak of no picture
  /example crop.jpg         show what is spoken of; also a box in pixels, 40,60,120,150; alone: put it away
  /quit                     end (Ctrl-D too); Ctrl-C stops an answer"""
COMMANDS = ("/new", "/none", "/example", "/help", "/quit")


@dataclass
class Chat:
    """Lines in, text out.

    Args:
        predictor: of a language-model family.
        write: shows a piece of text as it is.
        note: shows a line that is no part of an answer.
        folder: where pictures with boxes and masks go.
        example: what is spoken of, shown; a box is of every picture that is looked at.
    """

    predictor: Predictor
    write: Callable[[str], None]
    note: Callable[[str], None]
    folder: Path
    example: Example | None = None
    conversation: Conversation = field(init=False)

    def __post_init__(self) -> None:
        self.conversation = self.predictor.conversation()

    def line(self, line: str) -> bool:
        """Do what one line asks for; False when it asks to end.

        Raises:
            DataError: a picture is not there or cannot be read.
            UsageError: an unknown command, or a question that cannot be answered.
        """
        line = line.strip()
        if line.startswith("/") and (line.split()[0] in COMMANDS or not _picture(line)[0]):
            word, _, rest = line.partition(" ")
            return self._command(word, rest.strip())
        path, question = _picture(line)
        if path is not None:
            self.look(path)
        if question:
            self.ask(question)
        return True

    def look(self, path: Path) -> None:
        """Speak of another picture from now on.

        Raises:
            DataError: it is not there or cannot be read.
        """
        if not path.is_file():
            raise missing_picture(path)
        image = read_image(path)
        self._begin(image)
        height, width = image.shape[:2]
        self.note(f"[{path}, {width} x {height}]")

    def show(self, said: str) -> None:
        """Begin a new conversation about something that is shown: a picture of it, or a box; nothing puts it away.

        Raises:
            DataError: the picture is not there or cannot be read.
            UsageError: it is no box, or the family cannot be shown anything.
        """
        if said and not can_be_shown(self.predictor.model):
            plugin = self.predictor.opened.settings.plugin
            raise UsageError(f"{plugin} cannot be shown what is spoken of", where="/example", do="describe it in words")
        before = self.example
        self.example = read_example(_unquoted(said)) if said else None
        try:
            self._begin(self.conversation.image)
        except UsageError:
            self.example = before
            raise
        self.note(f"[shown: {said}]" if said else "[nothing is shown]")

    def _begin(self, image: "np.ndarray | None") -> None:
        """A new conversation about a picture and what is shown of it, or about none."""
        shown = None if self.example is None or image is None else self.example.of(image)
        self.conversation = self.predictor.conversation(image, example=shown)

    def ask(self, question: str) -> Prediction:
        """Ask, and write the answer while it grows; objects below it, and where they are drawn."""
        if self.example is not None and self.conversation.image is None:
            what = "an example is shown, and no picture to look for it in"
            raise UsageError(what, where="--example", do="begin a line with the picture's path")
        forgotten, heard = self.conversation.forgotten, list[str]()

        def hear(piece: str) -> None:
            heard.append(piece)
            self.write(piece)

        try:
            answer = self.conversation.ask(question, hear)
        except KeyboardInterrupt:
            self.write("\n")
            self.note("[stopped; this question is not remembered]")
            raise
        told, text = "".join(heard), answer.text or "(no words)"
        # What a family makes of its marks for phrases and masks differs from what was heard: the reading counts.
        self.write((text[len(told) :] if text.startswith(told) else f"\n{text}") + "\n")
        if (lost := self.conversation.forgotten - forgotten) > 0:
            self.note(f"[too long for the model: the first {lost} of the rounds that it knew are forgotten]")
        self._show(answer, question)
        return answer

    def _show(self, prediction: Prediction, question: str) -> None:
        image = self.conversation.image
        if image is None or (prediction.boxes_xyxy is None and not prediction.masks and not prediction.regions):
            return
        answer = self.predictor.answer_of(prediction, question, image)
        for number, one in enumerate(answer.json()["objects"], 1):
            parts = [one.get("name") or "object", *([f"{one['score']:.2f}"] if "score" in one else [])]
            parts += (
                ["box " + " ".join(f"{v:.0f}" for v in one["box_xyxy"] if v is not None)] if "box_xyxy" in one else []
            )
            self.note(f"  {number} {', '.join(parts)}{', a mask' if 'mask' in one else ''}")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{free_stem(self.folder, 'answer')}.png"
        answer.draw().save(path)
        self.note(f"  drawn: {path}")

    def _command(self, word: str, rest: str) -> bool:
        if rest and word in COMMANDS and word != "/example":
            raise UsageError(f"{word} stands alone", where=rest, do="write the question on a line of its own")
        if word == "/help":
            self.note(HELP)
        elif word == "/example":
            self.show(rest)
        elif word == "/new":
            self.conversation.turns.clear()
            self.note("[a new conversation]")
        elif word == "/none":
            self.conversation = self.predictor.conversation()
            self.note("[no picture]")
        elif word != "/quit":
            raise UsageError(f"there is no command {word}", known=COMMANDS, do=suggest(word, COMMANDS, "type /help"))
        return word != "/quit"


def _unquoted(path: str) -> str:
    """A path as it is, however a terminal drops it: in quotation marks, or with escaped blanks."""
    bare = path.strip("'\"")
    return bare if Path(bare).expanduser().is_file() else bare.replace("\\ ", " ")


def _picture(line: str) -> tuple[Path | None, str]:
    """The picture that a line begins with, and what follows it; quotes and escaped blanks as a terminal drops them."""
    whole = Path(_unquoted(line)).expanduser()
    if whole.suffix.lower() in SUFFIXES and whole.is_file():
        return whole, ""
    try:
        reader = shlex.shlex(line, posix=True, punctuation_chars=False)
        reader.whitespace_split, reader.commenters = True, ""
        first = reader.get_token()
    except ValueError:  # a quotation mark that is not closed: a sentence
        return None, line
    path = Path(first or "").expanduser()
    if path.suffix.lower() not in SUFFIXES:
        return None, line
    return path, reader.instream.read(-1).strip()  # pyright: ignore[reportArgumentType]
