"""Sample data for `--demo`: the core's scenes in the forms that GLEE's three image stages learn from, and clips.

annotations/refcoco-mixed/instances_train.json    one image entry and one annotation per referred object
annotations/refcoco-unc-val/instances_val.json    the same; one object of a scene, with one expression
Objects365V2/annotations/*.json                   boxes of every other scene under the names of Objects365
open_image/*.json                                 boxes of the others under the names of OpenImages
GRIT20M/grit_5m.json                              boxes with phrases
SA1B_scaleup/sa1b_2m.json, SA1B_scaleup/images    masks without names: an index, and a file beside each image
clips/{train,val}/*, clips/{train,val}.json       things that move, in the form of YouTube-VIS
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.data.demo.clips import as_ytvis, draw_clip
from mmcore.data.demo.scenes import Scene
from mmcore.data.demo.write import NUM_TRAIN, NUM_VAL, More, Writer, coco_annotation, coco_categories
from mmcore.data.demo.write import write_demo as write_scenes
from mmcore.data.formats.sa1b import index_of
from mmcore.geometry import masks

from mmcore_glee import vocabulary


def write_demo(root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL) -> Path:
    """The sample scenes with the merged files; see `mmcore.data.demo.write.write_demo`."""
    return write_scenes(root, seed=seed, train=train, val=val, more=More("three stages, clips", _more))


CLIPS = {"train": (1, 60), "val": (900, 12)}
"""First number and how many of each split; no more than there are scenes."""
FRAMES = 8
"""Frames of a clip."""
UNNAMED = 100
"""Scenes at most of which SA-1B has a copy."""
OTHER_NAMES = {"obj365": {"sports ball": "Basketball"}, "openimage": {"sports ball": "Ball"}}
"""What two lists of names call a thing where COCO calls it otherwise, capitals aside."""


def _more(scenes: Mapping[str, Sequence[Scene]], out: Writer) -> None:
    _merged(scenes, out)
    _for_three_stages(scenes, out)
    for split, (first, count) in CLIPS.items():
        clips = [draw_clip(0, number, FRAMES) for number in range(first, first + min(count, len(scenes[split])))]
        for clip in clips:
            for name, content in zip(clip.names(), clip.frames, strict=True):
                out.put(f"clips/{split}/{name}", content)
        out.put_json(f"clips/{split}.json", as_ytvis(clips, coco_categories()))


def _for_three_stages(scenes: Mapping[str, Sequence[Scene]], out: Writer) -> None:
    train, val = scenes["train"], scenes["val"]
    objects365 = "Objects365V2/annotations/zhiyuan_objv2_{}_new.json"
    out.put_json(objects365.format("train"), _boxes(train[::2], "obj365"))
    out.put_json(objects365.format("val"), _boxes(val, "obj365"))
    out.put_json("open_image/openimages_v6_train_bbox_splitdir.json", _boxes(train[1::2], "openimage"))
    out.put_json("GRIT20M/grit_5m.json", _phrases(train))
    for scene in train[:UNNAMED]:
        out.put(f"SA1B_scaleup/images/sa_000000/sa_{scene.image_id}.jpg", scene.jpeg)
        out.put_json(f"SA1B_scaleup/images/sa_000000/sa_{scene.image_id}.json", _sidecar(scene))
    index = list(index_of(out.folder / "SA1B_scaleup/images", ["sa_000000"]))
    out.put_json(
        "SA1B_scaleup/sa1b_2m.json",
        {
            "images": [image for image, _ in index],
            "annotations": [one for _, found in index for one in found],
            "categories": [{"id": 1, "name": "object"}],
        },
    )


def _boxes(scenes: Sequence[Scene], names: str) -> dict[str, Any]:
    """COCO boxes under another list of names, whose ids count from 1 in its order."""
    listed = vocabulary.names(names)
    ids = {name.strip().lower(): number for number, name in enumerate(listed, 1)}
    called = {thing.kind for scene in scenes for thing in scene.things}
    category = {kind: ids[OTHER_NAMES[names].get(kind, kind).lower()] for kind in called}
    fields = ("id", "image_id", "bbox", "category_id", "area", "iscrowd")
    whole = [
        coco_annotation(thing, thing.annotation_id, scene.image_id, category[thing.kind])
        for scene in scenes
        for thing in scene.things
    ]
    return {
        "images": [_image(scene) for scene in scenes],
        "annotations": [{field: one[field] for field in fields} for one in whole],
        "categories": [{"id": number, "name": name} for number, name in enumerate(listed, 1)],
    }


def _phrases(scenes: Sequence[Scene]) -> dict[str, Any]:
    """GRIT: boxes with what is said of them, here the shortest and the longest expression that fits nothing else."""
    said = [
        (scene, scene.things[number], expression)
        for scene in scenes
        for number, expressions in scene.expressions
        for expression in dict.fromkeys((expressions[0], expressions[-1]))
    ]
    return {
        "images": [_image(scene) for scene in scenes],
        "annotations": [
            {"id": number, "image_id": scene.image_id, "bbox": thing.box_xywh, "caption": expression}
            for number, (scene, thing, expression) in enumerate(said, 1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }


def _image(scene: Scene) -> dict[str, Any]:
    return {
        "id": scene.image_id,
        "file_name": f"{scene.image_id:012d}.jpg",
        "height": scene.height,
        "width": scene.width,
    }


def _sidecar(scene: Scene) -> dict[str, Any]:
    """SA-1B's file beside an image."""
    size = {"height": scene.height, "width": scene.width}
    return {
        "image": {"image_id": scene.image_id, "file_name": f"sa_{scene.image_id}.jpg", **size},
        "annotations": [
            {
                "id": thing.annotation_id,
                "area": thing.area,
                "bbox": thing.box_xywh,
                "segmentation": masks.encode(masks.to_bitmap(thing.segmentation, scene.height, scene.width)),
            }
            for thing in scene.things
            if not thing.crowd
        ],
    }


def _merged(scenes: Mapping[str, Sequence[Scene]], out: Writer) -> None:
    out.put_json("annotations/refcoco-mixed/instances_train.json", _referring(scenes["train"]))
    out.put_json("annotations/refcoco-unc-val/instances_val.json", _referring(scenes["val"], one_each=True))


def _referring(scenes: Sequence[Scene], *, one_each: bool = False) -> dict[str, Any]:
    """RefCOCO in COCO form: one image entry and one annotation per referred object.

    `one_each` keeps one object of a scene with one expression: validation files ask every entry once, and a short list
    keeps the evaluation of a demonstration short.
    """
    images, annotations = [], []
    for scene in scenes:
        for number, expressions in scene.expressions[:1] if one_each else scene.expressions:
            entry = len(images) + 1
            images.append(
                {
                    "id": entry,
                    "file_name": scene.name_2014,
                    "height": scene.height,
                    "width": scene.width,
                    "original_id": scene.image_id,
                    # The last is the most telling: the first only names the kind.
                    "expressions": list(expressions[-1:] if one_each else expressions),
                }
            )
            annotations.append(coco_annotation(scene.things[number], entry, entry, 1))
    categories = [{"supercategory": "object", "id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories}
