"""Sample data for `--demo`: drawn scenes in the formats of GLaMM's published sets.

    glamm/images/*.jpg
    glamm/grounded_{train,val}.json                captions whose phrases have masks, as GranD-f
    glamm/{val}_gcg_coco_{caption,mask}_gt.json    the truth about the held-back ones, as GranD-f's evaluation has it
    glamm/refs(unc).json  glamm/instances.json     expressions, as RefCOCO is distributed; splits train and val
    glamm/regions_{train,val}.json                 boxes with captions, as Visual Genome was converted
    glamm/captions_train.json                      captions, as COCO has them
    glamm/mmcore-demo.json                         what was written, with checksums

The same seed and counts give the same bytes on one version of Pillow and numpy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcore.data.demo.named_shapes import Scene, draw_scene
from mmcore.data.demo.write import Writer, write_once
from mmcore.geometry import masks

FOLDER = "glamm"
VERSION = 3
"""Grows when the pictures or texts change, so that older sample data is written anew."""
NUM_TRAIN, NUM_VAL = 1500, 48
HELD_BACK = 500_000
"""Number of the first held-back scene."""


def write_demo(root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL) -> Path:
    """Make sure that `root` holds the sample data, writing it only when something is missing or damaged.

    Args:
        root: the data root; the data go into its folder `glamm`.
        seed: decides every picture and text.
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
    scenes = {
        "train": [draw_scene(seed, number) for number in range(train)],
        "val": [draw_scene(seed, HELD_BACK + number) for number in range(val)],
    }
    for split, some in scenes.items():
        for scene in some:
            out.put(f"images/{scene.name}", scene.jpeg)
        out.put_json(f"grounded_{split}.json", [_grounded(scene) for scene in some])
        out.put_json(f"regions_{split}.json", _coco(some))
    captions = [{"id": n, "image_id": s.number, "caption": s.caption} for n, s in enumerate(scenes["train"], 1)]
    out.put_json("captions_train.json", {"images": _images(scenes["train"]), "annotations": captions})
    everything = [*scenes["train"], *scenes["val"]]
    out.put_json("instances.json", _coco(everything))
    out.put_json("refs(unc).json", _references(scenes))
    _put_truth(out, scenes["val"])
    return out.files


def _grounded(scene: Scene) -> dict[str, Any]:
    groundings = {
        shape.phrase: {"token_positives": list(span), "rle_masks": [masks.encode(shape.mask)]}
        for shape, span in zip(scene.shapes, scene.spans, strict=True)
    }
    return {"file_name": scene.name, "caption": scene.caption, "groundings": groundings}


def _images(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    return [{"id": s.number, "file_name": s.name, "height": s.size[0], "width": s.size[1]} for s in scenes]


def _coco(scenes: Sequence[Scene]) -> dict[str, Any]:
    categories = [{"id": 1, "name": "shape"}]
    return {"images": _images(scenes), "annotations": _annotations(scenes), "categories": categories}


def _annotation_id(scene: Scene, place: int) -> int:
    return 10 * scene.number + place + 1


def _annotations(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Every shape with all that one of the formats asks for."""
    return [
        {
            "id": _annotation_id(scene, place),
            "image_id": scene.number,
            "category_id": 1,
            "bbox": shape.box_xywh,
            "area": float(shape.mask.sum()),
            "iscrowd": 0,
            "segmentation": masks.encode(shape.mask),
            "caption": shape.phrase,
        }
        for scene in scenes
        for place, shape in enumerate(scene.shapes)
    ]


def _references(scenes: dict[str, list[Scene]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for split, some in scenes.items():
        for scene in some:
            for place, texts in scene.expressions():
                ids = {"ref_id": len(found), "ann_id": _annotation_id(scene, place), "image_id": scene.number}
                sentences = [{"sent": text} for text in texts]
                found.append({**ids, "category_id": 1, "split": split, "sentences": sentences})
    return found


def _put_truth(out: Writer, scenes: Sequence[Scene]) -> None:
    """The held-back scenes as GranD-f's evaluation files have them: pictures by the stem of their file name."""
    images = [{**image, "id": Path(image["file_name"]).stem} for image in _images(scenes)]
    said = [
        {
            "id": number,
            "image_id": Path(scene.name).stem,
            "caption": scene.caption,
            "labels": [shape.phrase for shape in scene.shapes],
        }
        for number, scene in enumerate(scenes)
    ]
    drawn = [{**one, "image_id": f"{one['image_id']:06d}"} for one in _annotations(scenes)]
    out.put_json("val_gcg_coco_caption_gt.json", {"images": images, "annotations": said})
    out.put_json("val_gcg_coco_mask_gt.json", {**_coco(scenes), "images": images, "annotations": drawn})
