"""Sample data for `--demo`: drawn pictures with captions and questions in the formats of LLaVA.

    visper/images/*.jpg
    visper/captions_train.json      a request to describe, a caption (stage pt)
    visper/questions_train.json     conversations of some questions; one in sixteen has no picture (stage ift)
    visper/{train,val}2017/*.jpg  visper/annotations/captions_{train,val}2017.json
                                    captions as COCO has them, for stage pt and for probing
    visper/questions_val.jsonl      one question about a held-back picture a line, with its answer (evaluation)
    visper/mmcore-demo.json         what was written, with checksums

The same seed and counts give the same bytes on one version of Pillow and numpy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcore.data.demo.write import Writer, conversation, write_once

from mmcore_visper.data.demo_scenes import COLOURS, KINDS, Scene, caption, draw_scene, questions

FOLDER = "visper"
VERSION = 11
"""Grows when the pictures or questions change, so that older sample data is written anew."""

NUM_TRAIN, NUM_VAL = 3000, 60
COCO_SHARE = 6
"""One picture in COCO's form for so many in LLaVA's."""
CONVERSATIONS = 4
"""Conversations about a training picture."""
VAL_QUESTIONS = 3
"""Questions about a held-back picture."""

_REQUESTS = ("Describe this picture.", "What is in the picture?", "Say briefly what you see.")
_NEXT = {"zero": "one", "one": "two", "two": "three"}


def write_demo(root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL) -> Path:
    """Make sure that `root` holds the sample data, writing it only when something is missing or damaged.

    Args:
        root: the data root; the data goes into its folder `visper`.
        seed: decides every picture and question.
        train: number of training pictures.
        val: number of held-back pictures.

    Returns:
        `root`.
    Raises:
        DataError: the folder holds other files under the names that would be written.
    """
    wanted = {"version": VERSION, "seed": seed, "train": train, "val": val}
    write_once(Path(root) / FOLDER, wanted, lambda folder: _write_all(folder, seed, train, val))
    return Path(root)


def _write_all(folder: Path, seed: int, train: int, val: int) -> dict[str, str]:
    out = Writer(folder)
    rng = np.random.Generator(np.random.PCG64([seed, 10**9]))
    known = [draw_scene(seed, number) for number in range(train)]
    held_back = [draw_scene(seed, 500_000 + number) for number in range(val)]
    for scene in (*known, *held_back):
        out.put(f"images/{scene.name}", scene.jpeg)
    captioned = {
        "train": [draw_scene(seed, 250_000 + number) for number in range(max(1, train // COCO_SHARE))],
        "val": [draw_scene(seed, 750_000 + number) for number in range(val)],
    }
    for split, scenes in captioned.items():
        for scene in scenes:
            out.put(f"{split}2017/{scene.name}", scene.jpeg)
        out.put_json(f"annotations/captions_{split}2017.json", _coco_captions(scenes))
    out.put_json("captions_train.json", [_captioned(scene, rng) for scene in known])
    out.put_json("questions_train.json", _conversations(known, rng))
    out.put_lines("questions_val.jsonl", _lines(held_back, rng))
    return out.files


def _captioned(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """The marker stands before or behind the request, as in LLaVA's captions."""
    request = _REQUESTS[int(rng.integers(len(_REQUESTS)))]
    asked = f"<image>\n{request}" if rng.random() < 0.5 else f"{request}\n<image>"
    return conversation(scene.name.removesuffix(".jpg"), scene.name, [(asked, caption(scene))])


def _coco_captions(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Two captions an image, as the files of COCO list them."""
    images = [{"id": number, "file_name": scene.name} for number, scene in enumerate(scenes)]
    captions = [
        {"image_id": number, "id": 2 * number + turn, "caption": text}
        for number, scene in enumerate(scenes)
        for turn, text in enumerate((caption(scene), f"there is {caption(scene)}"))
    ]
    return {"info": {"description": "mmcore sample pictures"}, "images": images, "annotations": captions}


def _conversations(scenes: Sequence[Scene], rng: np.random.Generator) -> list[dict[str, Any]]:
    records = []
    for number, scene in enumerate(scene for scene in scenes for _ in range(CONVERSATIONS)):
        whole, *each = questions(scene, rng)
        turns = [(asked.text, asked.answer) for asked in ([whole, *each] if rng.random() < 0.5 else each)]
        turns[0] = (f"<image>\n{turns[0][0]}", turns[0][1])
        records.append(conversation(f"{scene.name.removesuffix('.jpg')}-{number % CONVERSATIONS}", scene.name, turns))
        if number % 15 == 14:
            records.append(conversation(f"text-{number}", None, _without_picture(rng)))
    return records


def _without_picture(rng: np.random.Generator) -> list[tuple[str, str]]:
    numbers = [(f"Which number comes after {number}?", after) for number, after in _NEXT.items()]
    colour, kind = list(COLOURS)[int(rng.integers(len(COLOURS)))], KINDS[int(rng.integers(len(KINDS)))]
    asked = [*numbers, (f"Is {colour} a color or a shape?", "color"), (f"Is a {kind} a color or a shape?", "shape")]
    return [asked[i] for i in rng.permutation(len(asked))]


def _lines(scenes: Sequence[Scene], rng: np.random.Generator) -> list[dict[str, Any]]:
    """One question a line."""
    lines = []
    for scene in scenes:
        for asked in questions(scene, rng)[:VAL_QUESTIONS]:
            entry = {
                "question_id": len(lines),
                "image": scene.name,
                "text": asked.text,
                "answer": asked.answer,
                "category": asked.kind,
            }
            lines.append(entry)
    return lines
