"""Sample scenes for `--demo`: a small world of drawn objects in the real on-disk formats.

Every scene is a muted background with one to four large objects of six COCO categories, so that a small detector
learns them from scratch in minutes. The files are what a user's own data would be: COCO instances (polygons, RLE where
another object hides a part, crowds) and RefCOCO as it is distributed (`instances.json` and the references, as JSON
instead of a pickle). A family that reads other files of the same scenes gives a way to write them (`More`).

    coco/train2017/*.jpg  coco/val2017/*.jpg  coco/annotations/instances_{train,val}2017.json
    coco/train2014/COCO_train2014_*.jpg       the same pictures under the names RefCOCO uses
    refer/refcoco/instances.json  refer/refcoco/refs(unc).json
    mmcore-demo.json                          what was written, with checksums

The same seed and counts give the same bytes on one version of Pillow and numpy.
"""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmcore.base.jsonfile import read_json, read_regular
from mmcore.base.lock import waited_for
from mmcore.base.terminal import tell
from mmcore.data.demo.scenes import Scene, Thing, draw_scene
from mmcore.errors import DataError

MANIFEST = "mmcore-demo.json"
VERSION = 2
"""Grows when the scenes change, so that older sample data is written anew."""

NUM_TRAIN, NUM_VAL = 400, 40

_SUPERCATEGORIES = {
    "person": "1 person",
    "vehicle": "2 bicycle,3 car,4 motorcycle,5 airplane,6 bus,7 train,8 truck,9 boat",
    "outdoor": "10 traffic light,11 fire hydrant,13 stop sign,14 parking meter,15 bench",
    "animal": "16 bird,17 cat,18 dog,19 horse,20 sheep,21 cow,22 elephant,23 bear,24 zebra,25 giraffe",
    "accessory": "27 backpack,28 umbrella,31 handbag,32 tie,33 suitcase",
    "sports": "34 frisbee,35 skis,36 snowboard,37 sports ball,38 kite,39 baseball bat,40 baseball glove,"
    "41 skateboard,42 surfboard,43 tennis racket",
    "kitchen": "44 bottle,46 wine glass,47 cup,48 fork,49 knife,50 spoon,51 bowl",
    "food": "52 banana,53 apple,54 sandwich,55 orange,56 broccoli,57 carrot,58 hot dog,59 pizza,60 donut,61 cake",
    "furniture": "62 chair,63 couch,64 potted plant,65 bed,67 dining table,70 toilet",
    "electronic": "72 tv,73 laptop,74 mouse,75 remote,76 keyboard,77 cell phone",
    "appliance": "78 microwave,79 oven,80 toaster,81 sink,82 refrigerator",
    "indoor": "84 book,85 clock,86 vase,87 scissors,88 teddy bear,89 hair drier,90 toothbrush",
}


def coco_categories() -> list[dict[str, Any]]:
    """The 80 categories of COCO 2017 as its files list them: `{"supercategory", "id", "name"}`, ids 1 to 90."""
    return [
        {"supercategory": group, "id": int(entry.split(" ", 1)[0]), "name": entry.split(" ", 1)[1]}
        for group, entries in _SUPERCATEGORIES.items()
        for entry in entries.split(",")
    ]


class More(NamedTuple):
    """Further files about the sample scenes."""

    name: str
    """Decides, with the seed and the counts, what is written; another name writes anew."""
    write: "Callable[[Mapping[str, Sequence[Scene]], Writer], None]"
    """Called with the scenes of the splits `train` and `val`."""


def write_demo(
    root: Path, *, seed: int = 0, train: int = NUM_TRAIN, val: int = NUM_VAL, more: More | None = None
) -> Path:
    """Make sure that `root` holds the sample scenes, writing them only when something is missing or damaged.

    Everything is drawn in a folder beside `root` first, so an interrupted call leaves nothing half done.

    Args:
        root: becomes the data root; created when it does not exist.
        seed: decides every scene.
        train: number of training scenes.
        val: number of held-back scenes.
        more: files of a family's own.

    Returns:
        `root`.
    Raises:
        DataError: `root` holds other files under the names that would be written.
    """
    wanted = {"version": VERSION, "seed": seed, "train": train, "val": val, "more": more.name if more else None}
    return write_once(Path(root), wanted, lambda folder: _write_all(folder, seed, train, val, more))


def write_once(root: Path, wanted: dict[str, Any], write: Callable[[Path], dict[str, str]]) -> Path:
    """Make sure that `root` holds generated data; a manifest with checksums tells what was written there.

    Args:
        root: the folder; other files in it are left alone.
        wanted: what decides the data, JSON values; when the manifest says the same and all files are intact, nothing
            is written.
        write: writes everything into an empty folder and returns the SHA-256 of each file by relative path.

    Returns:
        `root`.
    Raises:
        DataError: `root` holds other files under the names that would be written.
    """
    old = _read_manifest(root)
    if old is not None and old.get("made") == wanted and _intact(root, old["files"]):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(root):
        old = _read_manifest(root)
        if old is not None and old.get("made") == wanted and _intact(root, old["files"]):
            return root  # another process was quicker
        fresh = Path(tempfile.mkdtemp(prefix=_scratch(root), dir=root.parent))
        try:
            fresh.chmod(0o755)
            files = write(fresh)
            (fresh / MANIFEST).write_text(json.dumps({"made": wanted, "files": files}, indent=1))
            _move_in(fresh, root, files, old)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return root


# ---- files ----


def _scratch(root: Path) -> str:
    """How the names of folders begin in which data for `root` is being written."""
    return f".{root.name}-writing-"


@contextmanager
def _only_writer(root: Path) -> Generator[None, None, None]:
    """Only one process at a time writes; whatever another one began then is what a killed one left."""
    lock = root.with_name(f".{root.name}.lock")
    with waited_for(lock, lambda: tell(f"waiting for another process that writes {root}")):
        for left in root.parent.glob(f"{glob.escape(_scratch(root))}*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it notices and takes the next one


def _read_manifest(root: Path) -> dict[str, Any] | None:
    try:
        found = read_json(root / MANIFEST, {"files": dict})
        files = found["files"]
        # A manifest is only believed about files below the root: what it lists may be replaced or removed.
        safe = all(isinstance(name, str) and not name.startswith("/") and ".." not in name for name in files)
        return found if safe else None
    except (OSError, ValueError):
        return None


def _intact(root: Path, files: dict[str, str]) -> bool:
    return all(_is_it(root / name, digest) for name, digest in files.items())


def _is_it(path: Path, digest: str) -> bool:
    """Whether a file is there and has this SHA-256; one larger than any of ours is not read."""
    try:
        return _digest(read_regular(path)) == digest
    except (OSError, ValueError):
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _move_in(fresh: Path, root: Path, files: dict[str, str], old: dict[str, Any] | None) -> None:
    """Put the fresh tree in place: one rename where nothing stands, else file by file with the manifest last."""
    if not root.exists() or not any(root.iterdir()):
        if root.exists():
            root.rmdir()
        try:
            os.rename(fresh, root)
            return
        except OSError:  # a mount point, or somebody put something there meanwhile
            pass
    if old is None:
        for name, digest in files.items():
            if (root / name).exists() and not _is_it(root / name, digest):
                raise DataError(
                    "the folder holds other data under the names of the sample scenes",
                    where=root / name,
                    do="choose an empty folder for the sample data",
                )
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(fresh / name, root / name)
    for name in set(old["files"] if old else ()) - set(files):
        (root / name).unlink(missing_ok=True)
    os.replace(fresh / MANIFEST, root / MANIFEST)


class Writer:
    """Writes files below a folder and remembers their SHA-256, as `write_once` wants them.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}

    def put(self, name: str, data: bytes) -> None:
        """Write one file under its relative path."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)
        self.files[name] = _digest(data)

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON value without blanks."""
        self.put(name, json.dumps(value, separators=(",", ":")).encode())

    def put_lines(self, name: str, values: Iterable[Any]) -> None:
        """Write JSON values, one a line."""
        self.put(name, "".join(json.dumps(value) + "\n" for value in values).encode())


def conversation(name: str, image: str | None, turns: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A record of LLaVA: questions with their answers, about a picture or in words alone."""
    said = [
        entry
        for asked, answer in turns
        for entry in ({"from": "human", "value": asked}, {"from": "gpt", "value": answer})
    ]
    return {"id": name, **({"image": image} if image else {}), "conversations": said}


def _write_all(folder: Path, seed: int, train: int, val: int, more: More | None) -> dict[str, str]:
    """Draw every scene and write every file; returns the SHA-256 of each by relative path."""
    out = Writer(folder)
    scenes = {
        "train": [draw_scene(seed, 1000 + 7 * i) for i in range(train)],
        "val": [draw_scene(seed, 500_000 + 7 * i) for i in range(val)],
    }
    for split, drawn in scenes.items():
        for scene in drawn:
            out.put(f"coco/{split}2017/{scene.image_id:012d}.jpg", scene.jpeg)
            out.put(f"coco/train2014/{scene.name_2014}", scene.jpeg)
        out.put_json(
            f"coco/annotations/instances_{split}2017.json", _instances(drawn, lambda s: f"{s.image_id:012d}.jpg")
        )
    if more is not None:
        more.write(scenes, out)
    both = scenes["train"] + scenes["val"]
    out.put_json("refer/refcoco/instances.json", _instances(both, lambda s: s.name_2014))
    out.put_json("refer/refcoco/refs(unc).json", _references(scenes))
    return out.files


# ---- annotation formats ----


def _instances(scenes: Sequence[Scene], name_of: Callable[[Scene], str]) -> dict[str, Any]:
    """COCO instances."""
    categories = coco_categories()
    ids = {category["name"]: category["id"] for category in categories}
    return {
        "info": {"description": "mmcore sample scenes", "version": str(VERSION), "year": 2017},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": [
            {"license": 1, "file_name": name_of(s), "height": s.height, "width": s.width, "id": s.image_id}
            for s in scenes
        ],
        "annotations": [coco_annotation(t, t.annotation_id, s.image_id, ids[t.kind]) for s in scenes for t in s.things],
        "categories": categories,
    }


def coco_annotation(thing: Thing, annotation_id: int, image_id: int, category_id: int) -> dict[str, Any]:
    """One object of a scene as COCO writes it."""
    return {
        "segmentation": thing.segmentation,
        "area": thing.area,
        "iscrowd": int(thing.crowd),
        "image_id": image_id,
        "bbox": thing.box_xywh,
        "category_id": category_id,
        "id": annotation_id,
    }


def _references(scenes: dict[str, list[Scene]]) -> list[dict[str, Any]]:
    """RefCOCO as distributed: a list of references, each with its sentences and its split."""
    ids = {category["name"]: category["id"] for category in coco_categories()}
    references: list[dict[str, Any]] = []
    next_sentence = 0
    for split, drawn in scenes.items():
        for scene in drawn:
            for number, expressions in scene.expressions:
                thing = scene.things[number]
                sentences = [
                    {"tokens": text.split(), "raw": text, "sent_id": next_sentence + i, "sent": text}
                    for i, text in enumerate(expressions)
                ]
                next_sentence += len(sentences)
                references.append(
                    {
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "file_name": scene.name_2014.replace(".jpg", f"_{number}.jpg"),
                        "ann_id": thing.annotation_id,
                        "ref_id": len(references),
                        "image_id": scene.image_id,
                        "split": split,
                        "sentences": sentences,
                        "category_id": ids[thing.kind],
                    }
                )
    return references
