"""What models say and networks see, as pictures: predictions, clips, grounded conversations, samples and batch rows.

objects         masks and boxes with names, the text below with its phrases in the colours of what they mean
regions         what was asked about, dashed, with what was said about each below
tracks          one colour an identity, frames side by side
label maps      every class in its colour, named below
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mmcore.contract.values import IGNORED, DetectionBatch, Phrase, Prediction, Region, Sample, Turn
from mmcore.geometry import masks
from mmcore.geometry.boxes import cxcywh_to_xyxy
from mmcore.show.marks import PALETTE, Mark, contact_sheet, draw_marks
from mmcore.show.text import Colour, Run


def draw_prediction(
    image: Image.Image,
    prediction: Prediction,
    threshold: float = 0.0,
    *,
    top: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Image.Image:
    """The image with what was predicted on it.

    Args:
        image: as it is on disk.
        prediction: of any family.
        threshold: objects scoring less are left out.
        top: at most so many objects, the best.
        vocabulary: names of the classes of a label map.
    """
    kept = select(prediction, threshold, top)
    colours = colours_of(prediction, kept)
    boxes = None if prediction.boxes_xyxy is None else prediction.boxes_xyxy.tolist()
    marks = [
        Mark(
            colours[row],
            None if boxes is None else tuple(boxes[row]),
            None if prediction.masks is None else masks.decode(prediction.masks[row]),
            _label(prediction, row),
        )
        for row in kept
    ]
    asked, _ = _asked(prediction.regions, len(kept))
    legend: list[Run] = []
    if prediction.label_map is not None:
        image, legend = _tinted(image, prediction.label_map.numpy(), vocabulary)
    return draw_marks(image, [*marks, *asked], words_of(prediction, kept, legend))


def colours_of(prediction: Prediction, kept: Sequence[int]) -> dict[int, Colour]:
    """The colour of each of these rows of objects, in pictures and in words."""
    return {row: _colour(prediction, row, place) for place, row in enumerate(kept)}


def words_of(prediction: Prediction, kept: Sequence[int], legend: Sequence[Run] = ()) -> list[Run]:
    """What was said, its phrases in the colours of their objects: text, regions, classes, count, what was not read.

    Args:
        prediction: of any family.
        kept: rows of the objects that are shown, best first.
        legend: names of classes in their colours.
    """
    runs = _phrase_runs(prediction.text or "", prediction.phrases, colours_of(prediction, kept))
    runs = _joined(runs, _asked(prediction.regions, len(kept))[1])
    runs = _joined(runs, list(legend))
    if prediction.count is not None:
        runs = _joined(runs, [Run(f"count: {prediction.count}")])
    if prediction.unread:
        runs = _joined(runs, [Run("could not be read: " + ", ".join(prediction.unread))])
    return runs


def draw_clip(
    frames: Sequence[Image.Image],
    predictions: Sequence[Prediction],
    threshold: float = 0.0,
    *,
    cell: int = 384,
    columns: int = 6,
) -> Image.Image:
    """Frames of one video side by side, one prediction each; a thing has one colour throughout."""
    drawn = [draw_prediction(frame, one, threshold) for frame, one in zip(frames, predictions, strict=True)]
    titles = [f"frame {number if one.frame is None else one.frame}" for number, one in enumerate(predictions)]
    return contact_sheet(drawn, columns=min(len(drawn), columns), titles=titles, cell=cell)


def draw_grounded(
    image: Image.Image,
    turns: Sequence[Turn],
    regions: Sequence[Region],
    phrases: Sequence[Phrase],
    prompts: Sequence[Mark] = (),
    asked: Collection[int] = (),
) -> Image.Image:
    """A conversation below its image: every region in a colour, and the words that mean it in the same.

    Args:
        image: of the size that the regions are in.
        turns: what was said.
        regions: what it speaks of.
        phrases: which words of which turn mean which regions.
        prompts: what a person pointed at besides.
        asked: numbers of the regions that a person pointed at; their boxes are dashed.
    """
    colours = {number: PALETTE[number % len(PALETTE)] for number in range(len(regions))}
    marks = [
        Mark(
            colours[n],
            one.box_xyxy,
            None if one.mask is None else one.mask.cpu().numpy(),
            one.text or str(n + 1),
            given=n in asked,
        )
        for n, one in enumerate(regions)
    ]
    runs: list[Run] = []
    for number, turn in enumerate(turns):
        own = [phrase for phrase in phrases if phrase.turn == number]
        runs = _joined(runs, [Run(f"{turn.role}: "), *_phrase_runs(turn.text, own, colours)])
    return draw_marks(image, [*prompts, *marks], runs)


def select(prediction: Prediction, threshold: float, top: int | None = None) -> list[int]:
    """Rows of the objects that score at least `threshold`, best first, at most `top`."""
    if prediction.scores is None:
        count = len(prediction.boxes_xyxy if prediction.boxes_xyxy is not None else prediction.masks or ())
        return list(range(count))[:top]
    scores = prediction.scores.tolist()
    kept = [row for row, score in enumerate(scores) if score >= threshold]
    return sorted(kept, key=lambda row: -scores[row])[:top]


def draw_sample(sample: Sample, *, names: Sequence[str] | None = None) -> Image.Image:
    """What a transform made of one record: the image as the network gets it, with its objects and its expression.

    Args:
        sample: boxes and masks in pixels of its image.
        names: vocabulary that `sample.labels` index; without it labels are shown as numbers.
    """
    image = Image.fromarray(sample.image.permute(1, 2, 0).cpu().numpy())
    labels = sample.names or _named(sample.labels.tolist(), names, sample.expression)
    bitmaps = [None] * len(labels) if sample.masks is None else list(sample.masks.cpu().numpy())
    marks = [
        Mark(PALETTE[i % len(PALETTE)], tuple(box), bitmap, label)
        for i, (box, bitmap, label) in enumerate(zip(sample.boxes_xyxy.tolist(), bitmaps, labels))
    ]
    height, width = sample.original_size
    facts = f"{sample.draw.source} record {sample.draw.position}, image {sample.image_id}: "
    facts += f"{width}x{height} became {image.width}x{image.height}"
    return draw_marks(image, marks, [*_expression_runs(sample.expression, marks), Run(facts)])


def draw_row(
    batch: DetectionBatch,
    row: int,
    *,
    names: Sequence[str] | None = None,
    given: Sequence[Mark] = (),
    says: Sequence[Run] = (),
) -> Image.Image:
    """One image of a batch as the network gets it, padding included (a thin line shows where the image ends).

    Args:
        batch: objects flat over the batch.
        row: which image.
        names: vocabulary that the labels index; by default the batch's own, where it has one.
        given: what a family gives its model beside image and words, in pixels of the padded image.
        says: what it asks, for below the picture.
    """
    first, count = sum(batch.num_objects[:row]), batch.num_objects[row]
    image = Image.fromarray(batch.images[row].permute(1, 2, 0).cpu().numpy())
    boxes = cxcywh_to_xyxy(batch.boxes_cxcywh[first : first + count].cpu()).numpy()
    boxes = boxes * (image.width, image.height, image.width, image.height)
    expressions = getattr(batch, "expressions", None)
    expression = expressions[row] if expressions else None
    vocabulary = names if names is not None else getattr(batch, "names", None)
    labels = _named(batch.labels[first : first + count].tolist(), vocabulary, expression)
    bitmaps = [None] * count if batch.masks is None else list(batch.masks[first : first + count].cpu().numpy())
    tracks = None if batch.track_ids is None else batch.track_ids[first : first + count].tolist()
    numbers = range(count) if tracks is None else tracks
    marks = [
        Mark(PALETTE[number % len(PALETTE)], tuple(box), bitmap, label)
        for number, box, bitmap, label in zip(numbers, boxes.tolist(), bitmaps, labels)
    ]
    height, width = batch.image_sizes[row]
    if (height, width) != (image.height, image.width):
        ImageDraw.Draw(image).rectangle((0, 0, width - 1, height - 1), outline=(150, 150, 150))
    what = "image" if batch.frame_numbers is None else f"frame {batch.frame_numbers[row]} of video"
    facts = f"{batch.source} record {batch.draws[row].position}, {what} {batch.image_ids[row]}: "
    facts += f"{width}x{height} in {image.width}x{image.height}"
    return draw_marks(image, [*marks, *given], _joined([*_expression_runs(expression, marks), Run(facts)], list(says)))


# ---- what is written ----


def _colour(prediction: Prediction, row: int, place: int) -> Colour:
    number = place if prediction.track_ids is None else int(prediction.track_ids[row])
    return PALETTE[number % len(PALETTE)]


def _label(prediction: Prediction, row: int) -> str:
    name = prediction.names[row] if prediction.names else ""
    if not name and prediction.labels is not None:
        name = f"label {int(prediction.labels[row])}"
    track = "" if prediction.track_ids is None else f"#{int(prediction.track_ids[row])}"
    score = "" if prediction.scores is None else f"{float(prediction.scores[row]):.2f}"
    return " ".join(part for part in (name, track, score) if part)


def _named(labels: Sequence[int], names: Sequence[str] | None, expression: str | None) -> list[str]:
    if expression is not None:
        return [""] * len(labels)
    return [names[label] if names is not None and 0 <= label < len(names) else str(label) for label in labels]


def _expression_runs(expression: str | None, marks: Sequence[Mark]) -> list[Run]:
    if expression is None:
        return []
    return [Run(expression, marks[0].colour if marks else None), Run("\n")]


def _phrase_runs(text: str, phrases: Sequence[Phrase], colours: Mapping[int, Colour]) -> list[Run]:
    """The text cut at its phrases; a phrase of which no object is shown stays plain."""
    runs, at = [], 0
    for phrase in sorted(phrases):
        shown = [colours[row] for row in phrase.objects if row in colours]
        if not shown or phrase.start < at:
            continue
        runs += [Run(text[at : phrase.start]), Run(text[phrase.start : phrase.end], shown[0])]
        at = phrase.end
    return [run for run in [*runs, Run(text[at:])] if run.text]


def _joined(first: list[Run], second: list[Run]) -> list[Run]:
    """Both, the second on a line of its own."""
    return [*first, Run("\n"), *second] if first and second else [*first, *second]


def _asked(regions: Sequence[Region], taken: int) -> tuple[list[Mark], list[Run]]:
    """Regions that were given, by number, and what was said about each; colours go on after `taken` objects."""
    marks, runs = [], []
    for number, one in enumerate(regions, 1):
        colour = PALETTE[(taken + number - 1) % len(PALETTE)]
        mask = None if one.mask is None else one.mask.cpu().numpy()
        marks.append(Mark(colour, one.box_xyxy, mask, str(number), given=True))
        if one.text:
            runs = _joined(runs, [Run(f"{number}", colour), Run(f" {one.text}")])
    return marks, runs


def _tinted(
    image: Image.Image, labels: np.ndarray, vocabulary: Sequence[str] | None, strength: float = 0.5
) -> tuple[Image.Image, list[Run]]:
    """The image under the colours of its classes, the largest first in the palette, and their names."""
    found, sizes = np.unique(labels[labels != IGNORED], return_counts=True)
    classes = found[np.argsort(-sizes, kind="stable")].tolist()
    canvas = np.asarray(image.convert("RGB"), np.float32).copy()
    runs: list[Run] = []
    for place, label in enumerate(classes):
        colour = PALETTE[place % len(PALETTE)]
        inside = labels == label
        canvas[inside] += strength * (np.asarray(colour, np.float32) - canvas[inside])
        name = vocabulary[label] if vocabulary is not None and 0 <= label < len(vocabulary) else f"class {label}"
        runs += [Run(f" {name} ", colour), Run(" ")]
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)), runs
