"""SA-1B (Kirillov et al. 2023): an index without masks, and the masks in the JSON file beside each image.

    python -m mmcore.data.formats.sa1b SA1B_scaleup/images sa_000000 sa_000001 --out SA1B_scaleup/sa1b.json
    python -m mmcore.data.formats.sa1b SA1B_scaleup/images 'sa_*.tar' --out SA1B_scaleup/sa1b.json

SA-1B has a hundred overlapping masks for every image. The index keeps those that no larger mask covers by half (Wu et
al., CVPR 2024, prepare their data so) and names them by their ids, so the files stay as they were downloaded; files
that other scripts have thinned out are read just the same.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click
import numpy as np

from mmcore.base.files import replacing
from mmcore.data.formats import miniature
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.sidecars import SIDECARS, parsed_sidecar
from mmcore.data.patterns import is_pattern, matching, split_pattern
from mmcore.data.spread import spread
from mmcore.data.tar_members import members
from mmcore.data.tar_names import is_tar, refuse_others
from mmcore.errors import MissingDataError, MmcoreError
from mmcore.geometry import masks

SHRINK = 8
"""Masks are compared at an eighth of their size, nearest."""
OVERLAP = 0.5
"""Share of a mask, or of a union, from which a larger mask replaces it."""
TINY = 1e-6


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


class _Job(NamedTuple):
    """A folder or tar of sidecars, and where its part of the index is written."""

    root: Path
    name: str
    images: Path
    annotations: Path


class _Counts(NamedTuple):
    images: int
    masks: int


def sidecars(root: Path, name: str) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Every JSON file of a folder, or of a tar in its place: what errors call it, its image, its annotations.

    Raises:
        MissingDataError: there are none.
        DataError: one is something else, or the tar is damaged.
    """
    there, path = False, root / name
    if is_tar(path):
        with open(path, "rb", buffering=0) as file:
            for member in members(path):
                if member.name.endswith(".json"):
                    there = True
                    content = os.pread(file.fileno(), member.size, member.offset)
                    yield f"{path}, member {member.name}", *parsed_sidecar(content, f"{path}, member {member.name}")
    else:
        for beside in sorted(path.glob("*.json")):
            there = True
            yield str(beside), *parsed_sidecar(beside.read_bytes(), str(beside))
    if not there:
        raise MissingDataError(
            "no JSON files here", where=path, do="unpack a folder of SA-1B there, or name its tar with .tar"
        )


def index_of(root: Path, folders: Sequence[str]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Image and kept annotations of every sidecar in some folders or tars, in COCO's form without masks."""
    for folder in folders:
        for where, image, found in sidecars(root, folder):
            number = image["image_id"]
            name = f"{_folder(folder)}/{image['file_name']}"
            entry = {"file_name": name, "height": image["height"], "width": image["width"], "id": number}
            chosen = [found[i] for i in kept(found, where)]
            fixed = {"image_id": number, "iscrowd": 0, "category_id": 1}
            yield entry, [fixed | {field: one[field] for field in ("bbox", "id", "area")} for one in chosen]


def _write_part(job: _Job) -> _Counts:
    """One folder's part of the index: the elements of its lists, without their brackets."""
    num_images = num_masks = 0
    with open(job.images, "w", encoding="utf-8") as images, open(job.annotations, "w", encoding="utf-8") as annotations:
        for entry, found in index_of(job.root, [job.name]):
            images.write(", " * (num_images > 0) + json.dumps(entry))
            annotations.write(", " * (num_masks > 0 and bool(found)) + json.dumps(found)[1:-1])
            num_images, num_masks = num_images + 1, num_masks + len(found)
    return _Counts(num_images, num_masks)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("root", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("folders", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The index: a .json, or a folder.")
@click.option("--workers", type=click.IntRange(min=1), default=min(os.cpu_count() or 1, 8), help="Processes.")
def main(root: Path, folders: tuple[str, ...], out: Path, workers: int) -> None:
    """Write the index of some FOLDERS of SA-1B below ROOT, or of its tars (sa_000000.tar, or a pattern such as
    'sa_*.tar'); nothing there is changed. In a folder it is a file for each, which training reads as one source."""
    try:
        images, kept_masks = write_index(root, folders, out, workers=workers)
    except MmcoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    print(f"{out}: {images:,} images, {kept_masks:,} masks")


def write_index(root: Path, folders: Sequence[str], out: Path, *, workers: int = 1) -> tuple[int, int]:
    """Write the index of some folders or tars; returns its numbers of images and masks.

    Into one file where `out` ends with .json, else into a folder with a file for each. Nothing of it is kept in memory:
    every folder writes its part, and the parts are put behind one another.

    Raises:
        MissingDataError: a folder or tar is not there, or holds no JSON files.
        DataError: one of them is something else, or a tar is damaged.
    """
    names = [name for given in folders for name in _named(root, given)]
    out.parent.mkdir(parents=True, exist_ok=True)
    total = _Counts(0, 0)
    with tempfile.TemporaryDirectory(prefix=".sa1b-", dir=out.parent) as scratch:
        jobs = [
            _Job(root, name, Path(scratch, f"{i}.images"), Path(scratch, f"{i}.annotations"))
            for i, name in enumerate(names)
        ]
        for number, counts in enumerate(spread(_write_part, jobs, workers), start=1):
            total = _Counts(total.images + counts.images, total.masks + counts.masks)
            if len(jobs) > 1:
                told = f"{number} of {len(jobs)} folders: {total.images:,} images, {total.masks:,} masks kept"
                print(told, file=sys.stderr)
        if out.suffix == ".json":
            _write_file(out, jobs)
        else:
            out.mkdir(exist_ok=True)
            for job in jobs:
                _write_file(out / f"{_folder(job.name).replace('/', '-')}.json", [job])
    return total


def _write_file(out: Path, jobs: Sequence[_Job]) -> None:
    with replacing(out) as fresh, fresh.open("xb") as file:
        file.write(b'{"images": [')
        _append(file, [job.images for job in jobs])
        file.write(b'], "annotations": [')
        _append(file, [job.annotations for job in jobs])
        file.write(b'], "categories": [{"id": 1, "name": "object"}]}')


def _folder(name: str) -> str:
    """Before the names of a folder's or a tar's images."""
    return name.removesuffix(".tar")


def _named(root: Path, given: str) -> list[str]:
    """The folders or tars that an argument means."""
    if not is_pattern(given) or (root / given).exists():
        return [given]
    head, pattern = split_pattern(given)
    paths = matching(root / head, pattern, "the index")
    refuse_others(paths, "the index")
    return [path.relative_to(root).as_posix() for path in paths]


def _append(file: BinaryIO, parts: Sequence[Path]) -> None:
    """Put parts behind one another, with commas between those that are not empty."""
    behind = False
    for part in parts:
        if not part.stat().st_size:
            continue
        file.write(b", " if behind else b"")
        behind = True
        with part.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 22)


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
