"""A detector's samples from a COCO file, beside the published code's and beside a way with copies, in one run.

    python bench/loader.py --coco FOLDER                        # with annotations/instances_train2017.json, train2017/
    python bench/loader.py --coco FOLDER --published CHECKOUT   # and FoundationVision/GLEE, see bench/published.py

GLEE Lite's published augmentation; one process, no workers. `ours` is what training runs. `copied` is the way before:
pixels go to NumPy and back, and every plane is filled whole, compared with zero, copied into the result and once more
where an object is dropped; all images and masks must be equal to ours. `published` is the published data mapper over
the records that its own COCO reader made; it draws its augmentation from another generator, so what it gives is
compared where draws are fixed (`python -m mmcore_glee.parity`), not here. CPU milliseconds a sample: of the first
hundred samples of a process of its own, set-up not counted, and of as many again, when memory is warm.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import published
from mmcore.contract.values import Draw
from mmcore.data.transforms import OUTSIDE, Transform
from mmcore.geometry import masks
from mmcore.runs.build import build_datasets
from mmcore.runs.settings import Request, settle

SAMPLES = 100
ANNOTATIONS, IMAGES = "annotations/instances_train2017.json", "train2017"


def source(coco: Path) -> Any:
    """The training source of the fine-tune stage on this folder."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "own.yaml"
        train = f"{{format: COCO, annotations: {ANNOTATIONS}, images: {IMAGES}}}"
        file.write_text(f"name: own\nroot: {coco.resolve()}\ntrain: {train}\n")
        request = Request(plugin="glee", stage="finetune", variant="lite", own=file, data=coco)
        family, settings, _ = settle(request)
        return next(iter(build_datasets(family, settings, "train").sources.values()))


def with_copies() -> None:
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

    def visible(
        self: Transform, segmentations: Sequence[Any], chosen: np.ndarray, *, where: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        found = self.masks(segmentations, where=where)
        shown = chosen & found.any(axis=(1, 2))
        return found[shown], shown

    def planes(self: Transform, image: Any) -> np.ndarray:
        return np.ascontiguousarray(self.image(np.array(image)).transpose(2, 0, 1))

    masks.decode_all = decode_all
    Transform.bitmaps, Transform.masks = bitmaps, all_masks  # type: ignore[method-assign]
    Transform.visible, Transform.planes = visible, planes  # type: ignore[method-assign]


def of_ours(coco: Path) -> list[Callable[[], Any]]:
    """One call a sample."""
    given = source(coco)
    draws = [Draw(given.name, number % len(given), 1000 + number) for number in range(SAMPLES)]
    return [partial(given.sample, draw) for draw in draws]


def of_published(coco: Path, checkout: Path) -> list[Callable[[], Any]]:
    """One call a sample."""
    published.use(checkout)
    mapper = published.mapper(checkout)
    records = published.coco_records(coco / ANNOTATIONS, coco / IMAGES)
    np.random.seed(0)
    return [partial(mapper, records[number % len(records)]) for number in range(SAMPLES)]


def one(coco: Path, way: str, checkout: Path | None, hashed: bool) -> dict[str, Any]:
    """The figures of one way in this process, and a hash of its images and masks if asked."""
    if way == "copied":
        with_copies()
    if way == "published":
        assert checkout is not None
        calls = of_published(coco, checkout)
    else:
        calls = of_ours(coco)

    def through() -> float:
        begin = time.process_time()
        for call in calls:
            call()
        return (time.process_time() - begin) / SAMPLES * 1e3

    first, again = through(), through()
    content = hashlib.sha256()
    for sample in (call() for call in calls) if hashed else ():
        content.update(sample.image.numpy().tobytes() + sample.masks.numpy().tobytes() if sample else b"-")
    return {"first": first, "again": again, "content": content.hexdigest()}


def main() -> int:
    """All ways in turn, each time in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--published", type=Path, help="checkout of FoundationVision/GLEE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["ours", "copied", "published"])
    parser.add_argument("--hash", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.coco, given.one, given.published, given.hash)))
        return 0
    more = ["--published", str(given.published)] if given.published else []
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ("ours", "copied", *(["published"] if more else []))}
    for number in range(given.rounds):
        for way, results in found.items():
            hashed = ["--hash"] if number == 0 and way != "published" else []
            results.append(common.in_own_process(__file__, ["--coco", str(given.coco), "--one", way, *more, *hashed]))
    contents = {found[way][0]["content"] for way in ("ours", "copied")}
    rows: list[list[Any]] = [["CPU ms a sample", *found, *(f"{way} / ours" for way in found if way != "ours")]]
    report: dict[str, Any] = {"machine": common.machine(), "samples": SAMPLES}
    for part in ("first", "again"):
        times = {way: [result[part] for result in results] for way, results in found.items()}
        ratios = {way: common.ratio(seconds, times["ours"]) for way, seconds in times.items() if way != "ours"}
        report[part] = {"ms": times, "ratios": ratios}
        medians = (f"{statistics.median(seconds):.1f}" for seconds in times.values())
        shown = (f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" for ratio in ratios.values())
        rows.append([part, *medians, *shown])
    print(common.table(rows))
    common.save("loader", report)
    if len(contents) > 1:
        print("images or masks differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
