"""Sample data for `--demo`: the core's scenes, and RefCOCO merged into COCO files as the published GLEE reads it.

annotations/refcoco-mixed/instances_train.json    one image entry and one annotation per referred object
annotations/refcoco-unc-val/instances_val.json    the same; one object of a scene, with one expression
clips/{train,val}/*, clips/{train,val}.json       things that move, in the form of YouTube-VIS
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.data.demo.clips import as_ytvis, draw_clip
from mmcore.data.demo.scenes import Scene
from mmcore.data.demo.write import NUM_TRAIN, NUM_VAL, More, Writer, coco_annotation, coco_categories
from mmcore.data.demo.write import write_demo as write_scenes


def write_demo(root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL) -> Path:
    """The sample scenes with the merged files; see `mmcore.data.demo.write.write_demo`."""
    return write_scenes(root, seed=seed, train=train, val=val, more=More("merged references, clips", _more))


CLIPS = {"train": (1, 60), "val": (900, 12)}
"""First number and how many of each split; no more than there are scenes."""
FRAMES = 8
"""Frames of a clip."""


def _more(scenes: Mapping[str, Sequence[Scene]], out: Writer) -> None:
    _merged(scenes, out)
    for split, (first, count) in CLIPS.items():
        clips = [draw_clip(0, number, FRAMES) for number in range(first, first + min(count, len(scenes[split])))]
        for clip in clips:
            for name, content in zip(clip.names(), clip.frames, strict=True):
                out.put(f"clips/{split}/{name}", content)
        out.put_json(f"clips/{split}.json", as_ytvis(clips, coco_categories()))


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
