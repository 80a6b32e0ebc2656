"""Predict on any images: read, ask the model, and put the answer into JSON and a picture.

`Model.prepare` makes a batch of loose images; names, labels and sizes of the predictions are those asked for.
"""

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mmcore.base.files import replace_text
from mmcore.contract.classes import LEFT_OUT, REST
from mmcore.contract.model import Model
from mmcore.contract.recipe import Stage
from mmcore.contract.values import IGNORED, Box, Prediction, Region
from mmcore.data.images import MAX_PIXELS, read_image
from mmcore.data.names import plain
from mmcore.errors import CheckpointError, MissingDataError, UsageError, suggest
from mmcore.geometry import masks
from mmcore.runs.visual import OPTION, Visual, with_prompt
from mmcore.show.conversation import draw_answer
from mmcore.show.draw import draw_prediction, select
from mmcore.show.text import Run, with_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")


class Example(NamedTuple):
    """What to look for, shown: a picture of it, or a box in every picture that is asked about."""

    said: str
    """As it was given."""
    picture: np.ndarray | None = None
    """(height, width, 3) uint8 RGB."""
    box_xyxy: Box | None = None
    """Pixels."""

    def of(self, image: np.ndarray) -> np.ndarray:
        """The example for one image: the picture, or what the box holds of the image.

        Raises:
            UsageError: the box holds nothing of it.
        """
        if self.picture is not None:
            return self.picture
        assert self.box_xyxy is not None
        left, top, right, bottom = (round(side) for side in self.box_xyxy)
        part = image[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if not part.size:
            raise UsageError(
                f"box {self.said} holds nothing of a {image.shape[1]}x{image.shape[0]} image",
                where="--example",
                do="give left,top,right,bottom in pixels of the image",
            )
        return part


def read_example(said: str) -> Example:
    """`left,top,right,bottom` in pixels, or an image file.

    Raises:
        UsageError: it is neither.
        DataError: the image cannot be read.
    """
    numbers = said.split(",")
    if len(numbers) == 4 and not Path(said).exists():
        try:
            left, top, right, bottom = (float(number) for number in numbers)
        except ValueError:
            raise UsageError(
                f"{said!r} is no box", where="--example", do="write left,top,right,bottom in pixels, or name an image"
            ) from None
        return Example(said, box_xyxy=(left, top, right, bottom))
    path = Path(said).expanduser()
    if not path.exists():
        raise missing_picture(path, "--example")
    return Example(said, picture=read_image(path))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every image, and how much of the answer is kept."""

    names: tuple[str, ...] | None = None
    prompt: str | None = None
    example: "Example | None" = None
    """What to look for, shown instead of named."""
    visual: Visual | None = None
    """What to find, pointed at in the image itself, or in the first frame of a video."""
    threshold: float = 0.0
    """Objects scoring less are left out."""
    top: int | None = None
    """At most so many objects, the best."""
    masks: bool = True
    """False leaves masks out where there are boxes: those of a model that learned from boxes alone mean nothing."""
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name that is looked for -> what its objects are called in the answer; see `mmcore.contract.classes`."""


def with_class_names(question: Question, stage: Stage) -> Question:
    """The question with the model's own class names, where neither names nor a prompt are given."""
    given = question.names is not None or question.prompt is not None or question.example is not None
    if given or not stage.class_names:
        return question
    return dataclasses.replace(question, names=stage.class_names)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files that are meant: files as given, folders by the images directly inside.

    Raises:
        MissingDataError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise MissingDataError("the folder holds no image", where=path, known=SUFFIXES)
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise missing_picture(path, "IMAGE")
    return found


def missing_picture(path: Path, where: str | None = None) -> MissingDataError:
    """What is told of a picture that a person named and that is not there."""
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return MissingDataError(f"there is no image {path}", where=where, do=suggest(path.name, near, "check the path"))


def predict_image(model: Model, image: np.ndarray, question: Question, device: torch.device | str) -> Prediction:
    """What the model says about one image.

    Args:
        model: in eval mode on `device`.
        image: (height, width, 3) uint8 RGB.
        question: what to look for.
        device: where the model is.

    Raises:
        UsageError: the family cannot predict on loose images, or not by example or visual prompt.
    """
    shown = shown_instead(question, image, model.prepare)
    with torch.inference_mode():
        batch = model.prepare([image], names=question.names, prompt=question.prompt, **shown)
        (prediction,) = model.predict(batch.to(device))
    return with_prompt(with_classes(wanted(prediction, question), question.classes), shown)


def wanted(prediction: Prediction, question: Question) -> Prediction:
    """The prediction, without masks where they are not asked for and there are boxes."""
    bare = not question.masks and prediction.boxes_xyxy is not None
    return dataclasses.replace(prediction, masks=None) if bare else prediction


def shown_instead(question: Question, image: np.ndarray, prepare: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of `prepare` that show what is meant in an image, or by another one.

    Raises:
        UsageError: the family cannot be shown it so, or it is not inside the image.
    """
    shown: dict[str, Any] = {} if question.example is None else {"example": question.example.of(image)}
    if question.visual is not None:
        shown["visual"] = question.visual.on(image)
    options = {"example": "--example", "visual": OPTION}
    for name in shown:
        if name not in inspect.signature(prepare).parameters:
            raise UsageError(
                "this family cannot be shown what to look for so", where=options[name], do="use --names or --prompt"
            )
    return shown


def with_classes(prediction: Prediction, classes: Mapping[str, str]) -> Prediction:
    """A prediction with its objects under other names, those of names that are left out taken away."""
    if not classes or prediction.names is None:
        return prediction
    asked = {plain(name): called for name, called in classes.items() if name != REST}
    rest = classes.get(REST)
    called = [asked.get(plain(name), name if rest is None else rest) for name in prediction.names]
    kept = [row for row, name in enumerate(called) if name != LEFT_OUT]
    rows = torch.tensor(kept, dtype=torch.long)
    place = {row: number for number, row in enumerate(kept)}
    tensors = {name: getattr(prediction, name) for name in ("boxes_xyxy", "scores", "labels", "track_ids")}
    phrases = (
        one._replace(objects=tuple(place[row] for row in one.objects if row in place)) for one in prediction.phrases
    )
    return dataclasses.replace(
        prediction,
        **{name: None if value is None else value[rows] for name, value in tensors.items()},
        names=tuple(called[row] for row in kept),
        masks=None if prediction.masks is None else [prediction.masks[row] for row in kept],
        phrases=tuple(phrases),
    )


def to_json(prediction: Prediction, question: Question) -> dict[str, Any]:
    """A prediction as JSON: kept objects best first, boxes in pixels xyxy, masks as COCO RLE, phrases by object."""
    kept = select(prediction, question.threshold, question.top)
    place = {row: number for number, row in enumerate(kept)}
    result: dict[str, Any] = {"height": prediction.size[0], "width": prediction.size[1]}
    if question.prompt is not None:
        result["prompt"] = question.prompt
    if question.names is not None:
        result["names"] = list(question.names)
    if question.example is not None:
        result["example"] = question.example.said
    if question.visual is not None:
        result["visual"] = question.visual.said
    result["threshold"] = question.threshold
    result["objects"] = [_object(prediction, row) for row in kept]
    if not kept and (best := best_of(prediction)) is not None:
        result["best_score"] = round(best, 5)
    for name in ("image_id", "record_id", "frame", "count"):
        if getattr(prediction, name) is not None:
            result[name] = getattr(prediction, name)
    if prediction.regions:
        result["regions"] = [_region(one) for one in prediction.regions]
    if prediction.label_map is not None:
        result["classes"] = _classes(prediction.label_map.numpy())
    if prediction.measures:
        result["measures"] = {name: list(values) for name, values in prediction.measures.items()}
    if prediction.unread:
        result["unread"] = list(prediction.unread)
    if prediction.text is not None:
        result["text"] = prediction.text
        result["phrases"] = [
            {
                "turn": p.turn,
                "start": p.start,
                "end": p.end,
                "objects": [place[row] for row in p.objects if row in place],
            }
            for p in prediction.phrases
        ]
    return result


def best_of(prediction: Prediction) -> float | None:
    """The highest score of its objects; None where nothing has a score."""
    scores = None if prediction.scores is None else prediction.scores[torch.isfinite(prediction.scores)]
    return None if scores is None or not len(scores) else float(scores.max())


def _object(prediction: Prediction, row: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if prediction.names is not None:
        result["name"] = prediction.names[row]
    if prediction.labels is not None:
        result["label"] = int(prediction.labels[row])
    if prediction.track_ids is not None:
        result["track_id"] = int(prediction.track_ids[row])
    if prediction.scores is not None:
        result["score"] = round(float(prediction.scores[row]), 5)
    if prediction.boxes_xyxy is not None:
        result["box_xyxy"] = [
            round(value, 2) if math.isfinite(value) else None for value in prediction.boxes_xyxy[row].tolist()
        ]
    if prediction.masks is not None:
        result["mask"] = dict(prediction.masks[row])
    return result


def _region(region: Region) -> dict[str, Any]:
    """What was asked about and what was said, as JSON."""
    result: dict[str, Any] = {}
    if region.box_xyxy is not None:
        result["box_xyxy"] = [round(value, 2) for value in region.box_xyxy]
    if region.mask is not None:
        result["mask"] = masks.encode(region.mask.numpy())
    if region.text is not None:
        result["text"] = region.text
    if region.track_id is not None:
        result["track_id"] = region.track_id
    return result


def _classes(label_map: np.ndarray) -> list[dict[str, Any]]:
    """A label map as one RLE a class."""
    return [
        {"label": int(label), "mask": masks.encode(label_map == label)}
        for label in np.unique(label_map)
        if label != IGNORED
    ]


def predict_file(
    model: Model,
    path: Path,
    question: Question,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Predict one image file and write `NAME.json` and `NAME.png` into `folder`, under a name that is still free.

    Returns:
        What the JSON file holds, with the paths of both files.
    Raises:
        DataError: the image cannot be read.
        UsageError: the family cannot predict on loose images.
        CheckpointError: the folder cannot be written.
    """
    pixels = read_image(path, max_pixels=max_pixels)
    prediction = predict_image(model, pixels, question, device)
    picture = draw(Image.fromarray(pixels), prediction, question)
    result = {"image": str(path), **to_json(prediction, question)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = free_stem(folder, path.stem)
        picture.save(folder / f"{stem}.png")
        replace_text(folder / f"{stem}.json", json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder}: {error.strerror}", do="choose another --out") from None
    return {**result, "json": str(folder / f"{stem}.json"), "picture": str(folder / f"{stem}.png")}


def draw(image: Image.Image, prediction: Prediction, question: Question) -> Image.Image:
    """Objects on the picture; an answer in nothing but words beside it."""
    bare = not prediction.regions and prediction.label_map is None
    if bare and prediction.boxes_xyxy is None and prediction.masks is None and prediction.text is not None:
        return draw_answer(image, question.prompt or "", prediction.text)
    picture = draw_prediction(image, prediction, question.threshold, top=question.top)
    best = best_of(prediction)
    if best is not None and best < question.threshold:
        note = f"nothing scores {question.threshold:.2f} or more; the best is {best:.2f}"
        picture = with_text(picture, [Run(note)], font_size=max(14, picture.width // 40))
    return picture


def free_stem(folder: Path, stem: str) -> str:
    """`stem`, or `stem-2`, `stem-3`, ... : the first of which `folder` has neither JSON nor picture."""
    number, name = 1, stem
    while any((folder / f"{name}{suffix}").exists() for suffix in (".json", ".png")):
        number += 1
        name = f"{stem}-{number}"
    return name
