"""What the page of `mmcore app` asks a model, without the page: what it can be asked, answers as rows and words.

The model answers one question at a time, whoever asks.
"""

import inspect
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.base.jsonfile import read_json
from mmcore.contract.model import Model, overrides
from mmcore.contract.values import Prediction, Turn
from mmcore.errors import UsageError
from mmcore.runs.conversation import can_talk
from mmcore.runs.load import Answer, Predictor
from mmcore.runs.predict import SUFFIXES
from mmcore.show.draw import select, words_of
from mmcore.show.markup import in_html

if TYPE_CHECKING:
    from PIL import Image

MOST_LOOKED_AT = 5_000
"""Entries of a data folder that are looked at for sample pictures; more would delay the page."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can be asked."""

    names: bool
    """Classes by name."""
    expression: bool
    """An expression or a question, one at a time."""
    talk: bool
    """Questions that know what was said before."""
    example: bool
    """Something shown instead of named."""


def abilities(predictor: Predictor) -> Abilities:
    """What a model can be asked, found by preparing a question of each kind; it answers none."""
    black = np.zeros((64, 64, 3), np.uint8)

    def takes(**asked: Any) -> bool:
        try:
            predictor.model.prepare([black], **asked)
        except UsageError:
            return False
        return True

    return Abilities(
        names=takes(names=["thing"]),
        expression=takes(prompt="the thing"),
        talk=can_talk(predictor.model),
        example="example" in inspect.signature(predictor.model.prepare).parameters and takes(example=black[:16, :16]),
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer, ready to be put on a page."""

    picture: "Image.Image"
    words: str
    """HTML."""
    rows: list[list[Any]]
    """Name, score and box of every object, as text."""


COLUMNS = ("object", "score", "box: left, top, right, bottom (pixels)", "mask")


def shown(answer: Answer) -> Shown:
    """An answer as picture, words and table."""
    prediction, question = answer.prediction, answer.question
    kept = select(prediction, question.threshold, question.top)
    runs = words_of(prediction, kept)
    found = answer.json()
    if not runs and not kept:
        best = f"; the best scores {found['best_score']:.2f}" if "best_score" in found else ""
        words = f"<p>nothing scores {question.threshold:.2f} or more{best}</p>"
    else:
        words = in_html(runs) if runs else ""
    return Shown(answer.draw(), words, [_row(one) for one in found["objects"]])


def _row(one: dict[str, Any]) -> list[Any]:
    box = one.get("box_xyxy")
    return [
        one.get("name") or "object",
        f"{one['score']:.2f}" if "score" in one else "",
        "" if box is None else ", ".join("?" if v is None else f"{v:.0f}" for v in box),
        "yes" if "mask" in one else "",
    ]


@dataclass
class Talk:
    """Conversations of a page: what each visitor said is kept by the page and handed in again."""

    predictor: Predictor
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(
        self, image: str | None, question: str, turns: Sequence[Turn], example: str | None = None
    ) -> Iterator["Heard"]:
        """The answer while it grows, and at last the whole of it.

        Args:
            image: the picture's path, or None.
            question: in words.
            turns: what was said about this picture before.
            example: path of a picture of what is spoken of; None speaks in words alone.

        Raises:
            UsageError: the question cannot be answered.
            DataError: the picture cannot be read.
        """
        talk = self.predictor.conversation(image, example=example)
        talk.turns = list(turns)
        pieces: queue.Queue[str | None] = queue.Queue()
        outcome: list[Prediction | BaseException] = []

        def work() -> None:
            try:
                with self.lock:
                    outcome.append(talk.ask(question, pieces.put))
            except BaseException as error:  # raised again where it is waited for
                outcome.append(error)
            pieces.put(None)

        threading.Thread(target=work, daemon=True).start()
        text = ""
        while (piece := pieces.get()) is not None:
            text += piece
            yield Heard(text, (*turns, Turn("user", question), Turn("assistant", text)))
        (result,) = outcome
        if isinstance(result, BaseException):
            raise result
        answer = None if talk.image is None else self.predictor.answer_of(result, question, talk.image)
        yield Heard(result.text or "", tuple(talk.turns), answer, talk.forgotten)


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer of a conversation, so far."""

    text: str
    turns: tuple[Turn, ...]
    answer: Answer | None = None
    """The whole of it, once it is whole and about a picture."""
    forgotten: int = 0


def sample_pictures(predictor: Predictor, folder: Path | None, most: int = 6) -> list[str]:
    """Pictures to try: of a folder that is named, else of the data the model was trained with, where they are here.

    Validation pictures come first: the model has not learned them.
    """
    settings = predictor.opened.settings
    root = Path(settings.data)
    used = [*settings.stage.validation.values(), *settings.stage.data.sources.values()]
    folders = [root / one.images for one in used] if folder is None else [folder]
    found: list[str] = []
    for place in dict.fromkeys(folders):
        found += _pictures(place, most - len(found))
    return found


def _pictures(folder: Path, most: int) -> list[str]:
    """The first pictures below a folder, of which not more than `MOST_LOOKED_AT` entries are looked at."""
    found: list[str] = []
    looked = 0
    for place, inside, files in os.walk(folder):
        inside.sort()
        names = sorted(name for name in files if Path(name).suffix.lower() in SUFFIXES)
        found += [str(Path(place, name)) for name in names[: most - len(found)]]
        looked += len(files) + len(inside)
        if len(found) >= most or looked > MOST_LOOKED_AT:
            break
    return found


def serving(predictor: Predictor) -> str:
    """How the model is served to programs, in Markdown."""
    target = predictor.opened.run_dir or predictor.opened.origin
    config = Path(target) / "config.json"
    if predictor.opened.run_dir is None and config.is_file() and read_json(config).get("model_type") == "llava":
        return (
            f'This folder is one of transformers: `AutoModelForImageTextToText.from_pretrained("{target}")`, '
            f"`transformers serve` and `vllm serve {target}` need no mmcore."
        )
    text = f'From Python: `mmcore.load({str(target)!r}).predict("photo.jpg")`.\n\n'
    if not overrides(predictor.model, Model.export_hf):
        return text + "transformers has no architecture of this family: an export opens with `mmcore.load` as well."
    return text + (
        f"Plain LLaVA models run without mmcore: `mmcore export {target} --format hf --out DIR` writes a folder for "
        'transformers (`AutoModelForImageTextToText.from_pretrained("DIR")`, or `transformers serve`) and for vLLM '
        "(`vllm serve DIR`). The folder's card says whether this model is one."
    )
