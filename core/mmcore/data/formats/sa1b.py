"""SA-1B (Kirillov et al. 2023): an index without masks, and the masks in the JSON file beside each image.

    python -m mmcore.data.formats.sa1b SA1B_scaleup/images sa_000000 sa_000001 --out SA1B_scaleup/sa1b.json

SA-1B has a hundred overlapping masks for every image. The index keeps those that no larger mask covers by half (Wu et
al., CVPR 2024, prepare their data so) and names them by their ids, so the files stay as they were downloaded; files
that other scripts have thinned out are read just the same.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from mmcore.base import tamed
from mmcore.base.files import replace_text
from mmcore.data.formats import miniature
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import Format, Written
from mmcore.errors import DataError, MissingDataError, MmcoreError
from mmcore.geometry import masks

SHRINK = 8
"""Masks are compared at an eighth of their size, nearest."""
OVERLAP = 0.5
"""Share of a mask, or of a union, from which a larger mask replaces it."""
TINY = 1e-6
SIDECARS = "SA-1B index and sidecars"
"""Name of the format: who reads such records takes the masks from `sidecar_masks`."""


def sidecar_masks(image: Path, ids: Sequence[int], where: str) -> list[dict[str, Any]]:
    """The masks of some annotations, from the JSON file beside an image.

    Args:
        image: path of the image.
        ids: of the annotations that the index keeps.
        where: of the index, for errors.

    Raises:
        DataError: the file is missing, is something else, or lacks one of the annotations.
    """
    path = image.with_suffix(".json")
    annotations = {annotation["id"]: annotation["segmentation"] for annotation in read_sidecar(path, where)[1]}
    for id_ in ids:
        if id_ not in annotations:
            raise DataError(
                f"annotation {id_} of the index is not among the {len(annotations)} of the file beside the image",
                where=f"{path}, {where}",
                do="make the index again from these files: python -m mmcore.data.formats.sa1b --help",
            )
    return [annotations[id_] for id_ in ids]


def read_sidecar(path: Path, where: str | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the JSON file beside an image says of the image, and its annotations.

    Raises:
        DataError: the file is missing or is something else.
    """
    place = f"{path}, {where}" if where else path
    try:
        content = tamed.loads(path.read_bytes())
        image, annotations = content["image"], content["annotations"]
        if {"image_id", "file_name", "height", "width"} - image.keys():
            raise ValueError("the image has no image_id, file_name, height or width")
        for annotation in annotations:
            if {"id", "area", "bbox", "segmentation"} - annotation.keys():
                raise ValueError("an annotation has no id, area, bbox or segmentation")
        return image, annotations
    except FileNotFoundError:
        raise DataError(
            "there is no file with masks beside the image",
            where=place,
            do="SA-1B comes with one JSON file for each image; unpack both into one folder",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not the annotations of an SA-1B image: {error}", where=place) from None


def kept(annotations: Sequence[Mapping[str, Any]], where: str | None = None) -> list[int]:
    """Positions of the masks that no larger one covers, largest first.

    A mask goes when a larger one, kept or not, has half of their union or half of its area in common with it.
    """
    import torch
    from torch.nn import functional

    if not annotations:
        return []
    order = np.argsort([-float(annotation["area"]) for annotation in annotations], kind="stable")
    bitmaps = masks.decode_all([annotations[i]["segmentation"] for i in order], where=where)
    small = (bitmaps.shape[1] // SHRINK, bitmaps.shape[2] // SHRINK)
    rows = functional.interpolate(torch.from_numpy(bitmaps)[:, None].float(), small, mode="nearest").flatten(1)
    common, areas = rows @ rows.T, rows.sum(1)
    union = areas[:, None] + areas - common
    covered = torch.maximum((common + TINY) / (union + TINY), (common + TINY) / (areas + TINY))
    covered = torch.where(union == 0, 0.0, covered)
    lost = (covered >= OVERLAP).triu(1).any(0)
    return order[~lost.numpy()].tolist()


def index_of(root: Path, folders: Sequence[str]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Image and kept annotations of every sidecar in some folders, in COCO's form without masks."""
    for folder in folders:
        files = sorted((root / folder).glob("*.json"))
        if not files:
            raise MissingDataError("no JSON files here", where=root / folder, do="unpack a folder of SA-1B there")
        for path in files:
            image, annotations = read_sidecar(path)
            number = image["image_id"]
            name = f"{folder}/{image['file_name']}"
            entry = {"file_name": name, "height": image["height"], "width": image["width"], "id": number}
            chosen = [annotations[i] for i in kept(annotations, str(path))]
            fixed = {"image_id": number, "iscrowd": 0, "category_id": 1}
            yield entry, [fixed | {field: one[field] for field in ("bbox", "id", "area")} for one in chosen]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("root", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("folders", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The index.")
def main(root: Path, folders: tuple[str, ...], out: Path) -> None:
    """Write the index of some FOLDERS of SA-1B below ROOT; nothing there is changed."""
    try:
        images, kept_masks = write_index(root, folders, out)
    except MmcoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    print(f"{out}: {images:,} images, {kept_masks:,} masks")


def write_index(root: Path, folders: Sequence[str], out: Path) -> tuple[int, int]:
    """Write the index of some folders; returns its numbers of images and masks.

    Raises:
        MissingDataError: a folder holds no JSON files.
        DataError: one of them is something else.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, found) in enumerate(index_of(root, folders), start=1):
        images.append(image)
        annotations += found
        if number % 500 == 0:
            print(f"{number:,} images, {len(annotations):,} masks kept", file=sys.stderr)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(content))
    return len(images), len(annotations)


# ---- format ----


def _write(folder: Path) -> Written:
    pictures = folder / "images" / "sa_000000"
    miniature.write_pictures(pictures)
    for scene in miniature.scenes():
        image = {"image_id": scene.image_id, "file_name": miniature.file_name(scene)}
        annotations = [
            {
                "id": thing.annotation_id,
                "area": thing.area,
                "bbox": thing.box_xywh,
                "segmentation": masks.encode(masks.to_bitmap(thing.segmentation, scene.height, scene.width)),
            }
            for thing in miniature.objects(scene)
        ]
        beside = {"image": {**image, "height": scene.height, "width": scene.width}, "annotations": annotations}
        miniature.write_json(pictures / f"{scene.image_id}.json", beside)
    write_index(folder / "images", ["sa_000000"], folder / "sa1b.json")
    return Written("sa1b.json", "images")


FORMATS = (
    Format(
        name=SIDECARS,
        title="an index without masks or names, and a JSON file with masks beside each image",
        content="objects",
        tasks=("detect", "segment"),
        parser=lambda files, options: CocoInstances(files[0]),
        has_masks=True,
        sample=_write,
    ),
)
"""Not recognised by content: its index is a COCO file with boxes alone."""


if __name__ == "__main__":
    main()
