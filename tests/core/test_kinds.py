"""Whatever a family says fits the core: each kind goes through collator, device, guard, drawing, JSON and evaluation.

Grounded caption, region caption, multi-turn referring segmentation, tracked clip, coordinate text; without any plugin.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.values import (
    CROP,
    MAIN,
    SEGMENT,
    Batch,
    ClipSample,
    ConversationSample,
    Draw,
    Encoded,
    Phrase,
    Prediction,
    Region,
    Turn,
    VisualPrompt,
    map_tensors,
)
from mmcore.data.collate import collate_clips
from mmcore.evaluate.refcoco import RefCocoEvaluator
from mmcore.evaluate.vqa import AnswerEvaluator, Question
from mmcore.geometry import masks
from mmcore.geometry.box_text import GRAMMARS
from mmcore.language.collate import ConversationCollator
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.runs.predict import Question as Asked
from mmcore.runs.predict import to_json
from mmcore.show.batch import draw_batch
from mmcore.show.draw import draw_clip, draw_grounded, draw_prediction
from mmcore.train.guard import save_batch
from PIL import Image
from safetensors.torch import load_file

HEIGHT, WIDTH = 120, 160
DOG, BALL = (10.0, 20.0, 70.0, 100.0), (90.0, 60.0, 140.0, 110.0)


def mask_of(box: tuple[float, ...]) -> torch.Tensor:
    left, top, right, bottom = (int(value) for value in box)
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def rle_of(box: tuple[float, ...]) -> masks.Rle:
    return masks.encode(mask_of(box).numpy())


def phrase(text: str, words: str, *objects: int, turn: int = 0) -> Phrase:
    return Phrase(turn, text.index(words), text.index(words) + len(words), objects)


def conversation(*said: str, number: int = 0, roles: tuple[str, ...] = (), **more: Any) -> ConversationSample:
    ids = np.array([1, IMAGE, *range(2, 12)])
    images = {role: (torch.full((3, 8, 8), 0.5),) for role in (MAIN, *roles)}
    return ConversationSample(
        encoded=Encoded(ids, np.where(ids > 6, ids, IGNORE)),
        turns=tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(said)),
        images=images,
        draw=Draw("talk", number, number),
        image_id="yard.jpg",
        original_size=(HEIGHT, WIDTH),
        record_id=f"talk/{number}",
        **more,
    )


def collate(samples: list[ConversationSample]) -> Batch:
    return ConversationCollator(expansion={IMAGE: (("image", 4),)}, image_size=8, max_length=64)(samples, 0)


@dataclass(frozen=True)
class Kind:
    """What a family would hand over, and what must come out."""

    batch: Callable[[], Batch]
    predictions: Callable[[], list[Prediction]]
    holds: tuple[str, ...]
    """Names of tensors that the guard must have saved."""
    says: dict[str, Any]
    """What the JSON of the first prediction must hold."""
    draw: Callable[[list[Prediction]], Image.Image]
    measure: Callable[[Path, Batch, list[Prediction]], dict[str, float]]
    metrics: dict[str, float]


def paper() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), (70, 90, 80))


def answered(path: Path, batch: Batch, predictions: list[Prediction]) -> dict[str, float]:
    right = {"talk/0": "A dog chases the red balls.", "talk/1": "a red ball", "talk/2": "2"}
    questions = [Question(key, "?", "yard.jpg", (said,), {}) for key, said in right.items()]
    evaluator = AnswerEvaluator(questions)
    evaluator.update(batch, predictions)
    return evaluator.summarise(json.loads(json.dumps(evaluator.state())))


def referred(path: Path, batch: Batch, predictions: list[Prediction]) -> dict[str, float]:
    """Every record (expression, frame) is one image entry, as the protocol has it."""
    boxes = [DOG, BALL]
    entries = [{"id": n, "height": HEIGHT, "width": WIDTH, "file_name": "yard.jpg"} for n in range(len(predictions))]
    annotations = [
        {
            "id": n + 1, "image_id": n, "category_id": 1, "iscrowd": 0, "area": 1.0, "segmentation": rle_of(box),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for n, box in enumerate(boxes[: len(predictions)])
    ]  # fmt: skip
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    evaluator = RefCocoEvaluator(path, iou_types=("bbox", "segm") if predictions[0].masks else ("bbox",))
    evaluator.update(batch, [replace(one, image_id=n) for n, one in enumerate(predictions)])
    return evaluator.summarise(json.loads(json.dumps(evaluator.state())))


# ---- the five kinds ----

CAPTION = "A dog chases the red balls."
GROUNDED = Kind(
    batch=lambda: collate([
        conversation(
            "<image>\nDescribe.", CAPTION, roles=(SEGMENT,),
            regions=(Region(DOG, mask_of(DOG), "dog"), Region(BALL, mask_of(BALL), "balls")),
            phrases=(phrase(CAPTION, "A dog", 0, turn=1), phrase(CAPTION, "the red balls", 1, turn=1)),
        )
    ]),
    predictions=lambda: [
        Prediction(
            image_id="yard.jpg", size=(HEIGHT, WIDTH), record_id="talk/0", text=CAPTION,
            masks=[rle_of(DOG), rle_of(BALL)], names=("A dog", "the red balls"),
            phrases=(phrase(CAPTION, "A dog", 0), phrase(CAPTION, "the red balls", 1)),
        )
    ],
    holds=("regions.0.0.mask", "regions.0.1.mask", "other_images.segment", "sequences.ids", "images"),
    says={"text": CAPTION, "record_id": "talk/0"},
    draw=lambda found: draw_prediction(paper(), found[0]),
    measure=answered,
    metrics={"accuracy": 1.0},
)  # fmt: skip
REGION = Kind(
    batch=lambda: collate([
        conversation(
            "<image>\nWhat is in region1?", "a red ball", number=1, roles=(CROP,), regions=(Region(BALL),),
            prompts=(VisualPrompt("box", points_xy=torch.tensor([BALL[:2], BALL[2:]]), region=0),),
        )
    ]),
    predictions=lambda: [
        Prediction(
            image_id="yard.jpg", size=(HEIGHT, WIDTH), record_id="talk/1", text="a red ball",
            regions=(Region(BALL, text="a red ball"),),
        )
    ],
    holds=("prompts.0.0.points_xy", "other_images.crop"),
    says={"regions": [{"box_xyxy": list(BALL), "text": "a red ball"}]},
    draw=lambda found: draw_prediction(paper(), found[0]),
    measure=answered,
    metrics={"accuracy": 1.0},
)  # fmt: skip
FIRST, SECOND = "Sure, [SEG].", "It is [SEG]."
REFERRING = Kind(
    batch=lambda: collate([
        conversation(
            "<image>\nThe dog?", FIRST, "And the ball?", SECOND, roles=(SEGMENT,),
            regions=(Region(mask=mask_of(DOG)), Region(mask=mask_of(BALL))),
            phrases=(phrase(FIRST, "[SEG]", 0, turn=1), phrase(SECOND, "[SEG]", 1, turn=3)),
        )
    ]),
    predictions=lambda: [
        Prediction(
            image_id="yard.jpg", size=(HEIGHT, WIDTH), record_id=f"talk/0/{turn}", text=text, masks=[rle_of(box)],
            boxes_xyxy=torch.tensor([box]), scores=torch.ones(1), phrases=(phrase(text, "[SEG]", 0),),
        )
        for turn, text, box in ((1, FIRST, DOG), (3, SECOND, BALL))
    ],
    holds=("regions.0.0.mask", "regions.0.1.mask"),
    says={"record_id": "talk/0/1", "text": FIRST},
    draw=lambda found: draw_grounded(
        paper(),
        [Turn("user", "The dog?"), Turn("assistant", FIRST), Turn("user", "The ball?"), Turn("assistant", SECOND)],
        [Region(mask=mask_of(DOG), text="dog"), Region(mask=mask_of(BALL), text="ball")],
        [phrase(FIRST, "[SEG]", 0, turn=1), phrase(SECOND, "[SEG]", 1, turn=3)],
    ),
    measure=referred,
    metrics={"segm/oIoU": 1.0, "bbox/P@0.9": 1.0},
)  # fmt: skip


def clip() -> ClipSample:
    return ClipSample(
        frames=torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8), frame_numbers=(4, 6),
        boxes_xyxy=torch.tensor([DOG, BALL, DOG]), labels=torch.tensor([0, 1, 0]),
        frame_index=torch.tensor([0, 0, 1]), track_ids=torch.tensor([7, 9, 7]),
        masks=torch.stack([mask_of(DOG), mask_of(BALL), mask_of(DOG)]).bool(), draw=Draw("videos", 0, 0),
        image_id="video/1", original_size=(HEIGHT, WIDTH), expression="the dog",
    )  # fmt: skip


CLIP = Kind(
    batch=lambda: collate_clips([clip()]),
    predictions=lambda: [
        Prediction(
            image_id="video/1", size=(HEIGHT, WIDTH), frame=frame, boxes_xyxy=torch.tensor([box]), names=("dog",),
            scores=torch.tensor([0.9]), masks=[rle_of(box)], track_ids=torch.tensor([7]),
        )
        for frame, box in ((4, DOG), (6, BALL))
    ],
    holds=("images", "track_ids", "masks", "boxes_cxcywh"),
    says={"frame": 4, "image_id": "video/1"},
    draw=lambda found: draw_clip([paper(), paper()], found),
    measure=referred,
    metrics={"segm/mIoU": 1.0},
)  # fmt: skip
WRITTEN = GRAMMARS["three decimals"].write(np.array([DOG, BALL], np.float64), (HEIGHT, WIDTH), ["dog", "ball"]).text


def read(text: str, number: int) -> Prediction:
    reading = GRAMMARS["three decimals"].read(text, (HEIGHT, WIDTH))
    return Prediction(
        image_id="yard.jpg", size=(HEIGHT, WIDTH), record_id=f"talk/{number}", text=text,
        boxes_xyxy=torch.from_numpy(reading.boxes_xyxy).float(), names=tuple(one.name or "" for one in reading.found),
        phrases=tuple(Phrase(0, one.start, one.end, (row,)) for row, one in enumerate(reading.found)),
        scores=torch.linspace(1, 0.5, len(reading.found)), unread=reading.unread, count=len(reading.found),
    )  # fmt: skip


COORDINATES = Kind(
    batch=lambda: collate([conversation("<image>\nFind the dog and the ball.", WRITTEN, number=2, count=2)]),
    predictions=lambda: [read(WRITTEN, 2), read(WRITTEN.split("&")[1] + "&ball-[0.1", 2)],
    holds=("sequences.targets",),
    says={"count": 2, "text": WRITTEN},
    draw=lambda found: draw_prediction(paper(), found[1]),
    measure=referred,
    metrics={"bbox/P@0.9": 1.0},
)
KINDS = {
    "grounded caption": GROUNDED, "region caption": REGION, "referring segmentation": REFERRING, "tracked clip": CLIP,
    "coordinate text": COORDINATES,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_each_kind_goes_through_the_whole_core(kind: Kind, tmp_path: Path):
    batch = kind.batch()
    assert all(value > 0 for value in batch.normalisers.values())

    devices: list[str] = []
    map_tensors(batch.to("meta"), lambda tensor: devices.append(tensor.device.type) or tensor)
    assert set(devices) == {"meta"}
    save_batch(batch, tmp_path / "saved", {"loss": 1.0})
    saved = load_file(tmp_path / "saved" / "tensors.safetensors")
    assert len(saved) == len(devices)
    assert set(kind.holds) <= set(saved)
    assert json.loads((tmp_path / "saved" / "batch.json").read_text())["draws"]
    if torch.cuda.is_available():
        batch.pin_memory().to("cuda")

    drawn = draw_batch(batch, collate)
    assert len(drawn) == len(getattr(batch, "num_frames", None) or batch.draws)  # one a clip, or one a sample

    predictions = kind.predictions()
    said = to_json(predictions[0], Asked())
    assert {name: json.loads(json.dumps(said))[name] for name in kind.says} == kind.says
    picture = kind.draw(predictions)
    assert np.asarray(picture).std() > 10
    metrics = kind.measure(tmp_path / "truth.json", batch, predictions)
    assert {name: metrics[name] for name in kind.metrics} == pytest.approx(kind.metrics)
