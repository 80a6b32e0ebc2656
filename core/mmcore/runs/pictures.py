"""Pictures of an evaluation: a strip of sixteen records, and for detectors precision by recall and confusion.

pictures/SET/step-00000400.jpg    the strip of each evaluation during training; answers in words beside it as JSON
evals/SET/                        precision-recall.png and confusion.png of the newest
"""

import base64
import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmcore.base.files import replace_bytes
from mmcore.base.terminal import tell
from mmcore.errors import DataError
from mmcore.evaluate.coco import CURVES
from mmcore.runs.predict import Question, best_of, draw
from mmcore.show import strip
from mmcore.show.detection import draw_detection
from mmcore.show.draw import draw_clip, draw_prediction

if TYPE_CHECKING:
    from mmcore.base.distributed import Place
    from mmcore.contract.protocols import DataSource, Shown
    from mmcore.contract.values import Batch, Draw, Prediction

FOLDER = "pictures"
STRIP_NAME = "strip.jpg"
SCORE, MOST, UNSURE = 0.3, 12, 3
"""Objects from this score on are drawn, at most so many of them; where there is none, so many of the best."""


class Strip:
    """Looks on while a validation set is predicted, and draws the records of its strip.

    Args:
        total: records that are predicted.
    """

    def __init__(self, total: int) -> None:
        self._wanted = frozenset(strip.positions(total)) if total else frozenset()
        self._drawn: dict[int, tuple[str, dict[str, str]]] = {}

    def __call__(self, source: "DataSource", batch: "Batch", predictions: "Sequence[Prediction]") -> None:
        """Draw those of a batch that belong to the strip."""
        first = 0
        for at, count in _records(batch, len(predictions)):
            found = predictions[first : first + count]
            first += count
            if at.position in self._wanted and at.position not in self._drawn:
                with contextlib.suppress(DataError):  # the evaluation tells it
                    shown = source.shown(at.position)
                    if shown is not None:
                        named = [_named(one, batch) for one in found]
                        self._drawn[at.position] = _clip(shown, named) if shown.frames else _cell(shown, named[0])

    def save(self, path: Path, title: str, place: "Place") -> Path | None:
        """Write the strip; by the first process, with what all of them drew. Every process calls it.

        Returns:
            The file, on the first process, if there is anything to see.
        """
        from mmcore.base.distributed import gather_json

        own = list(self._drawn.items())
        parts = [own] if place.world_size == 1 else gather_json(own)
        found: dict[int, tuple[str, dict[str, str]]] = {
            position: cell for part in parts or () for position, cell in part
        }
        if not found:
            return None
        cells = [Image.open(io.BytesIO(base64.b64decode(found[position][0]))) for position in sorted(found)]
        _save(strip.sheet(cells, title), path)
        words = [found[position][1] for position in sorted(found) if found[position][1]]
        if words:
            replace_bytes(path.with_suffix(".json"), (json.dumps(words, indent=1, ensure_ascii=False) + "\n").encode())
        return path


def _records(batch: "Batch", count: int) -> "Iterable[tuple[Draw, int]]":
    """Where each record of a batch stands, and how many of its predictions are the record's: of a video its frames."""
    num_frames: Sequence[int] | None = getattr(batch, "num_frames", None)
    if num_frames is None:
        return ((at, 1) for at in batch.draws) if len(batch.draws) == count else ()
    starts = [sum(num_frames[:clip]) for clip in range(len(num_frames))]
    return zip([batch.draws[start] for start in starts], num_frames, strict=True)


def _named(prediction: "Prediction", batch: "Batch") -> "Prediction":
    """The prediction with the words that its labels stand for, where it has none."""
    names: Sequence[str] = getattr(batch, "names", ())
    if prediction.names is not None or prediction.labels is None or not names:
        return prediction
    return replace(prediction, names=tuple(names[label] for label in prediction.labels.tolist()))


def _cell(shown: "Shown", prediction: "Prediction") -> tuple[str, dict[str, str]]:
    """One record as a picture (JPEG, base64), and what was said where it is words."""
    image = None if shown.image is None else Image.fromarray(shown.image)
    words: dict[str, str] = {}
    title = f"{prediction.record_id if prediction.record_id is not None else prediction.image_id}"
    if shown.truth is not None and image is not None:
        best = best_of(prediction)
        # Where nothing is sure yet, the best shows what is being learned.
        unsure = best is not None and best < SCORE
        few = max(1, len(shown.truth.names or ())) if shown.question else UNSURE if unsure else MOST
        asked = Question(prompt=shown.question or None, threshold=0.0 if unsure or shown.question else SCORE, top=few)
        left = draw(image, prediction, asked)
        title += f"  (no object from {SCORE:g}, best {best:.2f})" if unsure and not shown.question else ""
        right = draw_prediction(image, shown.truth)
        title += f"  {shown.question}" if shown.question else ""
    else:
        placed = prediction.boxes_xyxy is not None or prediction.masks or prediction.regions
        left = draw_prediction(image, prediction, top=MOST) if placed and image is not None else image
        answer = prediction.text or ""
        words = {"record": title, "question": shown.question, "answer": answer, "wanted": shown.answer}
        right = strip.said(shown.question, answer, shown.answer)
    content = io.BytesIO()
    strip.cell(title, left, right).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode(), words


def _clip(shown: "Shown", predictions: "Sequence[Prediction]") -> tuple[str, dict[str, str]]:
    """Some frames of a video as one picture: what was followed, beside the truth."""
    of_frame = {one.frame: one for one in predictions}
    truths = [frame.truth for frame in shown.frames if frame.truth is not None and frame.truth.frame in of_frame]
    images = [Image.fromarray(frame.image) for frame in shown.frames if frame.image is not None]
    found = [of_frame[truth.frame] for truth in truths]
    best = max((value for one in found if (value := best_of(one)) is not None), default=1.0)
    threshold = SCORE if best >= SCORE else 0.9 * best
    title = f"video {found[0].image_id}  {shown.question}".strip()
    title += f"  (nothing from {SCORE:g}, best {best:.2f})" if best < SCORE else ""
    left = draw_clip(images, found, 0.0 if shown.question else threshold, columns=2)
    content = io.BytesIO()
    strip.cell(title, left, draw_clip(images, truths, columns=2)).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode(), {}


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, content.getvalue())


def draw_curves_of(folder: Path) -> list[Path]:
    """Precision by recall and confusion of an evaluation that lies in a folder, where it left what they are made of."""
    try:
        return draw_detection(folder / CURVES, folder) if (folder / CURVES).is_file() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        tell(f"the pictures of {folder} cannot be drawn: {error}")
        return []


def strips_of(run_dir: Path) -> dict[str, list[tuple[int, Path]]]:
    """Validation set -> its strips in order of step."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted((run_dir / FOLDER).glob("*/step-*.jpg")) if (run_dir / FOLDER).is_dir() else ():
        number = path.stem.removeprefix("step-")
        if number.isdecimal():
            found.setdefault(path.parent.name, []).append((int(number), path))
    return found


def draw_over_time(run_dir: Path) -> list[Path]:
    """One picture a validation set: the same few records at several steps; written beside the strips."""
    drawn = []
    for name, strips in strips_of(run_dir).items():
        path = run_dir / FOLDER / name / "over-time.jpg"
        words = any(one.with_suffix(".json").exists() for _, one in strips)
        titled: list[tuple[str, Path]] = [(f"step {step:,}", one) for step, one in strips]
        _save(strip.over_time(titled, words=words), path)
        drawn.append(path)
    return drawn


def pictures_of_step(run_dir: Path, step: int) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Validation set -> the strip of a step, and what was said in it."""
    found: dict[str, tuple[Path, list[dict[str, Any]]]] = {}
    for name, strips in strips_of(run_dir).items():
        for number, path in strips:
            if number == step:
                words = path.with_suffix(".json")
                found[name] = path, json.loads(words.read_text()) if words.exists() else []
    return found
