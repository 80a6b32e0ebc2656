"""Sample data for `--demo`: drawn pictures of coloured shapes in every form that Griffon reads.

    griffon/pictures/*.jpg
    griffon/captions.json                       a request to describe, a caption (stage alignment)
    griffon/{det,randdet,vg,reg,visj}.jsonl     the kinds of lines (pretrain, instruct, visual-referring)
    griffon/general.json, griffon/text.json     questions about pictures; questions without one
    griffon/{pretrain,sft,visual}.txt           the same as lists of tasks, for --set data.list=griffon/sft.txt
    griffon/REC_shapes_val.jsonl, griffon/instances_val.json, griffon/visj_val.jsonl     held-back pictures

The same seed and counts give the same bytes on one version of Pillow and numpy.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mmcore import Stage
from mmcore.data.demo.shapes import COLOURS, KINDS, DrawnScene, coco_boxes, draw_scene
from mmcore.data.demo.write import Writer, conversation, write_once

from mmcore_griffon.data.list_file import TYPES
from mmcore_griffon.recipes import format_of
from mmcore_griffon.tiny import INSTRUCT, PRETRAIN, VISUAL_REFERRING

FOLDER = "griffon"
VERSION = 4
"""Grows when the pictures or questions change, so that older sample data is written anew."""
NUM_TRAIN, NUM_VAL = 3000, 48
NUMBERS = ("zero", "one", "two", "three", "four")
_REQUESTS = ("Describe this picture.", "What is in the picture?", "Say briefly what you see.")


def write_demo(root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL) -> Path:
    """Make sure that `root` holds the sample data, writing it only when something is missing or damaged.

    Args:
        root: the data root; the data goes into its folder `griffon`.
        seed: decides every picture and question.
        train: number of training pictures.
        val: number of held-back pictures.

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
    twins = [draw_scene(seed, 250_000 + number, twins=True) for number in range(max(1, train // 4))]
    held_twins = [draw_scene(seed, 750_000 + number, twins=True) for number in range(max(1, val // 2))]
    for scene in (*known, *held_back, *twins, *held_twins):
        out.put(f"pictures/{scene.name}", scene.jpeg)
    out.put_json("captions.json", [_captioned(scene, rng) for scene in known])
    out.put_json("general.json", [_asked(scene, rng) for scene in known])
    out.put_json("text.json", [_without_picture(number, rng) for number in range(max(1, train // 10))])
    for name, lines in (
        ("det", [_objects(scene, dataset_name="shapes") for scene in known]),
        ("randdet", [_some_objects(scene, rng) for scene in known]),
        ("vg", [line for scene in known for line in _expressions(scene, rng)]),
        ("reg", [_described(scene, rng) for scene in known]),
        ("visj", [_objects(scene) for scene in twins]),
        ("visj_val", [_objects(scene) for scene in held_twins]),
        ("REC_shapes_val", [_single(scene, number) for scene in held_back for number in range(len(scene.shapes))]),
    ):
        out.put_lines(f"{name}.jsonl", lines)
    out.put_json("instances_val.json", coco_boxes(held_back))
    for name, stage in {"pretrain": PRETRAIN, "sft": INSTRUCT, "visual": VISUAL_REFERRING}.items():
        out.put(f"{name}.txt", _list(stage).encode())
    return out.files


def _list(stage: Stage) -> str:
    """The sources of a stage as lines of tasks."""
    lines: list[str] = []
    for source in stage.data.sources.values():
        kind = next(kind for kind in TYPES if source.format == format_of(kind))
        number = sum(line.startswith(f"{kind}_") for line in lines)
        lines.append(f"{kind}_{number} & {Path(str(source.annotations)).name} & {source.images or '/'}\n")
    return "".join(lines)


def _line(scene: DrawnScene) -> dict[str, Any]:
    return {"image_path": scene.name, "height": scene.height, "width": scene.width}


def _objects(scene: DrawnScene, **more: Any) -> dict[str, Any]:
    """Every kind of shape with its boxes."""
    kinds = dict.fromkeys(shape.kind for shape in scene.shapes)
    boxes = {kind: [list(shape.box) for shape in scene.shapes if shape.kind == kind] for kind in kinds}
    return {**_line(scene), **more, "objects": [{"category_name": kind, "bboxes": boxes[kind]} for kind in kinds]}


def _some_objects(scene: DrawnScene, rng: np.random.Generator) -> dict[str, Any]:
    """The same, and kinds that are not there."""
    line = _objects(scene, dataset_name="shapes")
    absent = [kind for kind in KINDS if all(shape.kind != kind for shape in scene.shapes)]
    some = [absent[i] for i in rng.permutation(len(absent))[: int(rng.integers(0, 2))]]
    return {**line, "objects": [*line["objects"], *({"category_name": kind, "bboxes": []} for kind in some)]}


def _expressions(scene: DrawnScene, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every shape by its colour and kind; now and then one that is not there."""
    lines = [
        {**_line(scene), "expression": f"{shape.colour} {shape.kind}", "bboxes": [list(shape.box)]}
        for shape in scene.shapes
    ]
    if rng.random() < 0.1:
        absent = [colour for colour in COLOURS if all(shape.colour != colour for shape in scene.shapes)]
        lines.append({**_line(scene), "expression": f"{absent[0]} {scene.shapes[0].kind}", "bboxes": []})
    return lines


def _described(scene: DrawnScene, rng: np.random.Generator) -> dict[str, Any]:
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    return {**_line(scene), "expression": f"the {shape.colour} {shape.kind}", "bboxes": list(shape.box)}


def _single(scene: DrawnScene, number: int) -> dict[str, Any]:
    """One shape as the files of referring expressions have it."""
    shape = scene.shapes[number]
    line = {**_line(scene), "expression": f"{shape.colour} {shape.kind}", "bbox": list(shape.box)}
    return {"img_path": line.pop("image_path"), **line}


def _captioned(scene: DrawnScene, rng: np.random.Generator) -> dict[str, Any]:
    request = _REQUESTS[int(rng.integers(len(_REQUESTS)))]
    return conversation(scene.name.removesuffix(".jpg"), scene.name, [(f"<image>\n{request}", scene.caption)])


def _asked(scene: DrawnScene, rng: np.random.Generator) -> dict[str, Any]:
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    asked = (
        ("How many shapes are there?", NUMBERS[len(scene.shapes)]),
        (f"What color is the {shape.kind}?", shape.colour),
        (f"Which shape is {shape.colour}?", shape.kind),
    )[int(rng.integers(3))]
    return conversation(f"{scene.name.removesuffix('.jpg')}-q", scene.name, [(f"<image>\n{asked[0]}", asked[1])])


def _without_picture(number: int, rng: np.random.Generator) -> dict[str, Any]:
    first = int(rng.integers(len(NUMBERS) - 1))
    asked = f"Which number comes after {NUMBERS[first]}?"
    return conversation(f"text-{number}", None, [(asked, NUMBERS[first + 1])])
