"""A detector's samples from a COCO file, masks painted where objects lie or plane by plane, in one run.

    python bench/loader.py --coco FOLDER       # with annotations/instances_train2017.json and train2017/

GLEE Lite's published augmentation; one process, no workers. Off is the way before: every plane filled whole, compared
with zero, and copied into the result. Figures are CPU milliseconds a sample: of the first hundred samples of a process
of its own, and of the same samples again, when memory is warm. The run fails unless all masks are equal.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from mmcore.contract.values import Draw
from mmcore.data.transforms import OUTSIDE, Transform
from mmcore.geometry import masks
from mmcore.runs.build import build_datasets
from mmcore.runs.settings import Request, settle

SAMPLES = 100


def source(coco: Path) -> Any:
    """The training source of the fine-tune stage on this folder."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "own.yaml"
        train = "{format: COCO, annotations: annotations/instances_train2017.json, images: train2017}"
        file.write_text(f"name: own\nroot: {coco.resolve()}\ntrain: {train}\n")
        request = Request(plugin="glee", stage="finetune", variant="lite", own=file, data=coco)
        family, settings, _ = settle(request)
        return next(iter(build_datasets(family, settings, "train").sources.values()))


def plane_by_plane() -> None:
    """Put the former way back."""

    def decode_all(rles: Sequence[Mapping[str, Any]], *, where: str | None = None) -> np.ndarray:
        height, width = rles[0]["size"]
        bitmaps = np.empty((len(rles), height, width), np.uint8)
        for bitmap, rle in zip(bitmaps, rles, strict=True):
            runs = masks._checked_runs(rle, where)[2]
            colours = (np.arange(len(runs)) & 1).astype(np.uint8)
            bitmap[...] = np.repeat(colours, runs).reshape(width, height).T
        return bitmaps

    def bitmaps(self: Transform, given: np.ndarray) -> np.ndarray:
        rows, columns = self._lookup
        found = given[:, rows[:, None], columns] != 0
        found &= (rows != OUTSIDE)[:, None] & (columns != OUTSIDE)
        return found

    def all_masks(self: Transform, segmentations: Sequence[Any], *, where: str | None = None) -> np.ndarray:
        result = np.zeros((len(segmentations), *self.output_size), bool)
        encoded = [i for i, one in enumerate(segmentations) if isinstance(one, Mapping)]
        drawn = [i for i, one in enumerate(segmentations) if not isinstance(one, Mapping)]
        if encoded:
            result[encoded] = self.bitmaps(decode_all([segmentations[i] for i in encoded], where=where))
        if drawn:
            result[drawn] = self._fill([segmentations[i] for i in drawn], where) != 0
        return result

    masks.decode_all = decode_all
    Transform.bitmaps, Transform.masks = bitmaps, all_masks  # type: ignore[method-assign]


def one(coco: Path, way: str) -> dict[str, Any]:
    """The figures of one way in this process."""
    given = source(coco)
    if way == "off":
        plane_by_plane()
    draws = [Draw(given.name, number % len(given), 1000 + number) for number in range(SAMPLES)]

    def through() -> float:
        begin = time.process_time()
        for draw in draws:
            given.sample(draw)
        return (time.process_time() - begin) / SAMPLES * 1e3

    first, again = through(), min(through() for _ in range(2))
    content = hashlib.sha256()
    for draw in draws:
        sample = given.sample(draw)
        content.update(sample.image.numpy().tobytes() + sample.masks.numpy().tobytes() if sample else b"-")
    return {"first": first, "again": again, "content": content.hexdigest()}


def main() -> int:
    """Both ways in turn, each time in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["on", "off"])
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.coco, given.one)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {"on": [], "off": []}
    for _ in range(given.rounds):
        for way, results in found.items():
            results.append(common.in_own_process(__file__, ["--coco", str(given.coco), "--one", way]))
    contents = {result["content"] for results in found.values() for result in results}
    rows: list[list[Any]] = [["CPU ms a sample", "on", "off", "off / on"]]
    report: dict[str, Any] = {"machine": common.machine(), "samples": SAMPLES}
    for part in ("first", "again"):
        on, off = ([result[part] for result in found[way]] for way in ("on", "off"))
        ratio = common.ratio(off, on)
        report[part] = {"on": on, "off": off, "ratio": ratio}
        means = (f"{statistics.median(times):.1f}" for times in (on, off))
        rows.append([part, *means, f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"])
    print(common.table(rows))
    common.save("loader", report)
    if len(contents) > 1:
        print("images or masks differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
