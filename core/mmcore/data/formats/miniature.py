"""Four sample scenes for the sample writers of formats: pictures, objects and something to say about each.

What a format's `sample` writes is read, drawn and stepped in the tests, so every format has a file that people can
look at: `mmcore data sample --format NAME`.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mmcore.data.demo.scenes import Scene, Thing, draw_scene

NUM_SCENES = 4
FIRST = 900_000
"""Image id of the first scene; far from those of the demos."""


@cache
def scenes() -> tuple[Scene, ...]:
    """The scenes, each with at least one object that is no crowd."""
    found: list[Scene] = []
    number = FIRST
    while len(found) < NUM_SCENES:
        scene = draw_scene(0, number)
        if any(not thing.crowd for thing in scene.things):
            found.append(scene)
        number += 7
    return tuple(found)


def objects(scene: Scene) -> list[Thing]:
    """The objects of a scene that are no crowds."""
    return [thing for thing in scene.things if not thing.crowd]


def kinds() -> list[str]:
    """Names of all objects, sorted."""
    return sorted({thing.kind for scene in scenes() for thing in objects(scene)})


def caption(scene: Scene) -> str:
    """What can be seen."""
    return "A picture with " + " and ".join(f"a {thing.colour} {thing.kind}" for thing in objects(scene)) + "."


def file_name(scene: Scene) -> str:
    """Of the picture."""
    return f"{scene.image_id}.jpg"


def write_pictures(folder: Path) -> None:
    """Every picture, directly below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes():
        (folder / file_name(scene)).write_bytes(scene.jpeg)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, values: Sequence[Any]) -> None:
    """A JSON Lines file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def coco(*, masks: bool = True) -> dict[str, Any]:
    """The scenes as a COCO instances file."""
    names = kinds()
    images = [
        {"id": scene.image_id, "file_name": file_name(scene), "height": scene.height, "width": scene.width}
        for scene in scenes()
    ]
    annotations = [
        {
            "id": thing.annotation_id,
            "image_id": scene.image_id,
            "category_id": names.index(thing.kind) + 1,
            "bbox": thing.box_xywh,
            "area": thing.area,
            "iscrowd": 0,
            **({"segmentation": thing.segmentation} if masks else {}),
        }
        for scene in scenes()
        for thing in objects(scene)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
