"""The annotation index beside `json.load`, SQLite and a memory map, on synthetic files in a published format.

    python bench/index.py                      # 118 000 images, about seven objects each: a minute or two
    python bench/index.py --images 1700000     # 1.7 million: needs some 10 GB of disk; json.load is extrapolated
    python bench/index.py --kind grit --images 1000000 --files 10 --index-only       # 2 GB of disk
    python bench/index.py --kind sa1b --images 200000 --files 20 --index-only        # 2 GB of disk

    python bench/index.py --kind made --images 11000000 --index-only                 # as many as SA-1B: 2 GB of disk

`coco` has masks, `grit` two to four phrases with boxes an image, `sa1b` 46 boxes an image as its index has them. `made`
has no annotations: its parser repeats one record, so that the index alone is measured.

Every figure comes from a process of its own. Private memory is what a data worker has to itself (unique set size)
after it read 20 000 random records: workers are forked by the real loader, as in training.

    build      from the JSON file to the finished index, hashing included
    start      opening a finished index in a new process, until the first record is there
    access     one random record, in the file's bytes and decoded; the files are in the page cache
    memory     what a process holds once sources and order of a run are there and 20 000 records were drawn

Wall seconds depend on what else the machine does, CPU seconds (all processes together) little.
"""

import argparse
import json
import mmap
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import common
import numpy as np

JSON_LOAD_FITS = 300_000
"""Images up to which `json.load` is run rather than extrapolated (about 8 GB)."""
READS = 20_000


def write_coco(path: Path, images: int, seed: int = 0) -> None:
    """A COCO instances file with 4 to 10 objects an image in random order, polygons of 10 to 30 points."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    counts = numbers.integers(4, 11, images)
    owners = numbers.permutation(np.repeat(np.arange(images), counts))
    with open(path, "w", buffering=1 << 22) as file:
        file.write('{"info": {"description": "synthetic"}, "licenses": [], "images": [')
        for i in range(images):
            file.write(
                f'{", " if i else ""}{{"license": 1, "file_name": "{i:012d}.jpg", "coco_url": "http://i/{i:012d}", '
                f'"height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52", "id": {i}}}'
            )
        # A few thousand shapes are enough: what is measured does not depend on their values.
        shapes = [_shape(rng) for _ in range(5000)]
        file.write('], "annotations": [')
        for number, owner in enumerate(owners.tolist()):
            segmentation, box = shapes[number * 7919 % 5000]
            file.write(
                f'{", " if number else ""}{{"segmentation": {segmentation}, "area": 702.5, "iscrowd": 0, '
                f'"image_id": {owner}, "bbox": {box}, "category_id": {number % 80 + 1}, "id": {number}}}'
            )
        categories = [{"supercategory": "thing", "id": i, "name": f"class {i}"} for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def write_grit(path: Path, images: int, seed: int = 0) -> None:
    """Phrases with boxes, as GRIT is converted for GLEE; ids count on from `seed` times a million."""
    rng, first = random.Random(seed), seed * 1_000_000
    nouns = ["red bus", "a dog on the grass", "the tall building behind it", "two people", "a cup of coffee"]
    with open(path, "w", buffering=1 << 22) as file:
        file.write('{"images": [')
        for i in range(images):
            comma = ", " if i else ""
            file.write(f'{comma}{{"id": {first + i}, "file_name": "{i // 10000:05d}/{i:09d}.jpg", "height": 512, ')
            file.write(f'"width": {512 + i % 3 * 128}}}')
        file.write('], "annotations": [')
        number = 0
        for i in range(images):
            for _ in range(rng.randrange(2, 5)):
                x, y, w, h = (round(rng.uniform(1, 250), 2) for _ in range(4))
                file.write(f'{", " if number else ""}{{"id": {first * 4 + number}, "image_id": {first + i}, "bbox": ')
                file.write(f'[{x}, {y}, {w}, {h}], "caption": "{nouns[number % 5]}", "area": {w * h:.2f}}}')
                number += 1
        file.write('], "categories": [{"id": 1, "name": "object"}]}')


def write_sa1b(path: Path, images: int, seed: int = 0) -> None:
    """SA-1B's index, as `python -m mmcore.data.formats.sa1b` writes it: 46 boxes an image, no masks."""
    rng, first = random.Random(seed), seed * 1_000_000
    boxes = [[round(rng.uniform(0, 700), 1) for _ in range(4)] for _ in range(5000)]
    with open(path, "w", buffering=1 << 22) as file:
        file.write('{"images": [')
        for i in range(images):
            name = f"sa_{seed:06d}/sa_{first + i}.jpg"
            file.write(
                f'{", " if i else ""}{{"file_name": "{name}", "height": 1500, "width": 2250, "id": {first + i}}}'
            )
        file.write('], "annotations": [')
        for number in range(46 * images):
            box = json.dumps(boxes[number * 7919 % 5000])
            file.write(
                f'{", " if number else ""}{{"image_id": {first + number // 46}, "iscrowd": 0, "category_id": 1, '
            )
            file.write(f'"bbox": {box}, "id": {first * 50 + number}, "area": 5213}}')
        file.write('], "categories": [{"id": 1, "name": "object"}]}')


@dataclass(frozen=True)
class Made:
    """A parser of one record, many times; `path` is a file that says how often."""

    path: Path

    format = "made/1"
    options: ClassVar[dict[str, Any]] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def prepare(self, folder: Path, report: Any) -> Any:
        from mmcore.data.index import Prepared

        return Prepared(int(self.path.read_text()), {"categories": ["object"], "category_ids": [1]})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, dict[str, int]]]:
        from mmcore.data.records import Object, Record

        record = Record("sa_000000/sa_1.jpg", 1, 1500, 2250, (Object(1, (1, 2, 30, 40), 0, False, None),))
        content, facts = record.to_bytes(), record.facts()
        turned = {**facts, "width": facts["height"], "height": facts["width"]}
        for number in range(start, stop):
            yield content, turned if number % 3 else facts


def write_made(path: Path, images: int, seed: int = 0) -> None:
    """How many records there are; no annotations."""
    path.write_text(str(images))


def _shape(rng: random.Random) -> tuple[str, str]:
    x, y, side = rng.uniform(0, 400), rng.uniform(0, 300), rng.uniform(20, 150)
    points = [round(low + rng.random() * side, 2) for _ in range(rng.randrange(10, 31)) for low in (x, y)]
    return json.dumps([points]), json.dumps([round(value, 2) for value in (x, y, side, side)])


# ---- ways to hold the records; each runs in a process of its own ----


@dataclass
class Way:
    """One way to read records: build, open, and read one."""

    build: Callable[[Path, Path], None]
    open: Callable[[Path, Path], tuple[int, Callable[[int], Any]]]


WRITERS = {"coco": write_coco, "grit": write_grit, "sa1b": write_sa1b, "made": write_made}


def _index(path: Path, cache: Path) -> Any:
    from mmcore.data.formats.coco import CocoInstances, Phrases
    from mmcore.data.index import open_index
    from mmcore.data.many_files import ManyFiles

    kind = path.name.split(".")[0].split("_")[0]
    parser: Any = {"grit": Phrases, "made": Made}.get(kind, CocoInstances)
    files = sorted(path.parent.glob(path.name))
    return open_index(parser(files[0]) if len(files) == 1 else ManyFiles(tuple(map(parser, files))), cache)


def _build_index(path: Path, cache: Path) -> None:
    _index(path, cache)


def _open_index(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    from mmcore.data.records import Records

    records = Records(_index(path, cache))
    return len(records), records.__getitem__


def _raw(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    index = _index(path, cache)
    return len(index), index.__getitem__


def _build_sqlite(path: Path, cache: Path) -> None:
    """The same bytes in a table; the time of parsing is not in it."""
    index = _index(path, cache)
    file = cache / "records.sqlite"
    file.unlink(missing_ok=True)
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, content BLOB)")
        database.executemany("INSERT INTO records VALUES (?, ?)", ((i, index[i]) for i in range(len(index))))
    database.close()


def _open_sqlite(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    database = sqlite3.connect(f"file:{cache / 'records.sqlite'}?mode=ro", uri=True)
    [(count,)] = database.execute("SELECT count(*) FROM records")
    return count, lambda i: database.execute("SELECT content FROM records WHERE number = ?", (i,)).fetchone()[0]


def _open_map(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    folder = _index(path, cache).folder
    offsets = np.memmap(folder / "offsets.bin", np.int64, mode="r")
    with open(folder / "records.bin", "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return len(offsets) - 1, lambda i: content[offsets[i] : offsets[i + 1]]


def _open_json(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    """What detection code usually does: the whole file as objects, annotations listed by image."""
    with open(path) as file:
        content = json.load(file)
    by_image: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    images = content["images"]
    return len(images), lambda i: (images[i], [dict(a) for a in by_image[images[i]["id"]]])


def _nothing(path: Path, cache: Path) -> None:
    pass


WAYS = {
    "index": Way(_build_index, _open_index),
    "index, bytes only": Way(_nothing, _raw),
    "sqlite, bytes only": Way(_build_sqlite, _open_sqlite),
    "memory map, bytes only": Way(_nothing, _open_map),
    "json.load": Way(_nothing, _open_json),
}


# ---- what is measured, each in a fresh process ----


def measure_build(way: Way, path: Path, cache: Path) -> dict[str, float]:
    import resource

    begin, cpu = time.perf_counter(), time.process_time()
    way.build(path, cache)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "peak_mib": common.resident("VmHWM") / common.MIB,
    }


def measure_access(way: Way, path: Path, cache: Path) -> dict[str, float]:
    import mmcore.data.formats.coco  # noqa: F401 - what a run has imported anyway is not part of starting

    before = common.resident("VmRSS")
    begin, cpu = time.perf_counter(), time.process_time()
    count, read = way.open(path, cache)
    read(count // 2)
    start, start_cpu = time.perf_counter() - begin, time.process_time() - cpu
    times = []
    rng = random.Random(1)
    for _ in range(6):
        numbers = [rng.randrange(count) for _ in range(2000)]
        cpu = time.process_time()
        for number in numbers:
            read(number)
        times.append((time.process_time() - cpu) / len(numbers) * 1e6)
    return {
        "start_seconds": start,
        "start_cpu_seconds": start_cpu,
        "access_us": statistics.median(times[1:]),
        "resident_mib": (common.resident("VmRSS") - before) / common.MIB,
    }


def measure_workers(way: Way, path: Path, cache: Path) -> dict[str, Any]:
    """Private memory of two workers of the real loader, before and after each has read its share of records."""
    from mmcore.contract.protocols import Datasets
    from mmcore.data.loader import Loader
    from mmcore.data.order.source_per_batch import SourcePerBatchOrder

    count, read = way.open(path, cache)
    order = SourcePerBatchOrder({"records": count}, {"records": 1.0}, {"records": 50})
    source: Any = _Source("records", count, read)  # no class of the core: importing torch would count as memory
    loader = Loader(Datasets({"records": source}, {"records": _memory_batch}), order, num_workers=2, pin_memory=False)
    per_process: dict[int, list[dict[str, float]]] = {}
    for _, batch in loader.iterate(0, 2 * READS // 50):
        per_process.setdefault(int(batch.statistics["pid"]), []).append(batch.statistics)
    loader.close()
    return {
        "private_before_mib": max(seen[0]["private"] for seen in per_process.values()) / common.MIB,
        "private_after_mib": max(seen[-1]["private"] for seen in per_process.values()) / common.MIB,
        "proportional_after_mib": max(seen[-1]["proportional"] for seen in per_process.values()) / common.MIB,
        "processes": len(per_process),
    }


@dataclass
class _Source:
    name: str
    count: int
    read: Callable[[int], Any]
    fingerprint: str = ""

    def __len__(self) -> int:
        return self.count

    def aspect_groups(self) -> None:
        return None

    def sample(self, draw: Any) -> Any:
        self.read(draw.position)
        return draw


def _memory_batch(samples: Any, seed: int) -> Any:
    from mmcore.contract.values import Batch

    return Batch("records", tuple(samples), {}, statistics={"pid": float(os.getpid()), **private_memory()})


def private_memory() -> dict[str, float]:
    """Unique and proportional set size of this process, bytes (Linux)."""
    fields = dict(_smaps())
    return {"private": fields["Private_Clean"] + fields["Private_Dirty"], "proportional": fields["Pss"]}


def _smaps() -> Iterator[tuple[str, float]]:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        yield name, float(value.split()[0]) * 1024


def measure_memory(way: Way, path: Path, cache: Path) -> dict[str, float]:
    """What the process of a run holds of its records: index, which are kept, their aspects, the order."""
    import mmcore.data.formats.coco  # noqa: F401
    from mmcore.data.order.source_per_batch import SourcePerBatchOrder
    from mmcore.data.records import Records

    before = private_memory()["private"]
    records = Records(_index(path, cache))
    size, aspects = {"records": len(records)}, {"records": records.aspect_groups()}
    order = SourcePerBatchOrder(size, {"records": 1.0}, {"records": 4}, aspects)
    for m in range(READS // 4):
        for draw in order.draws(m):
            records[draw.position]
    return {"held_mib": (private_memory()["private"] - before) / common.MIB, "records": float(len(records))}


MEASURES = {
    "build": measure_build,
    "access": measure_access,
    "workers": measure_workers,
    "memory": measure_memory,
}


def run(images: int, folder: Path, kind: str = "coco", files: int = 1, index_only: bool = False) -> dict[str, Any]:
    cache = folder / "cache"
    name = f"{kind}.json" if files == 1 else f"{kind}_*.json"
    path = folder / name
    print(f"writing {images} images to {path}", file=sys.stderr)
    written = [folder / name.replace("*", f"{number:03d}") for number in range(files)]
    for number, one in enumerate(written):
        WRITERS[kind](one, images // files, number)
        # The hash of a file that is only seconds old is not trusted, so age it as a downloaded file would be.
        old = time.time() - 3600
        os.utime(one, (old, old))
    time.sleep(2.5)
    result: dict[str, Any] = {
        "machine": common.machine(),
        "images": images,
        "kind": kind,
        "files": files,
        "file_mib": sum(one.stat().st_size for one in written) / common.MIB,
        "ways": {},
    }
    for name in WAYS:
        if (name == "json.load" and images > JSON_LOAD_FITS) or (index_only and not name.startswith("index")):
            continue
        result["ways"][name] = {}
        for measure in MEASURES:
            if measure == "memory" and name != "index":
                continue
            print(f"{name}: {measure}", file=sys.stderr)
            arguments = ["--measure", measure, "--way", name, "--folder", str(path)]
            result["ways"][name][measure] = common.in_own_process(__file__, arguments)
    result["index_mib"] = sum(file.stat().st_size for file in cache.rglob("*") if file.suffix != ".sqlite") / common.MIB
    return result


def extrapolate(result: dict[str, Any], smaller: dict[str, Any]) -> None:
    """json.load at this size, from a smaller one: time and memory grow with the number of images."""
    factor = result["images"] / smaller["images"]
    measured = smaller["ways"]["json.load"]
    result["ways"]["json.load"] = {
        "extrapolated_from_images": smaller["images"],
        "build": {"seconds": 0.0, "cpu_seconds": 0.0},
        "access": {
            "start_seconds": measured["access"]["start_seconds"] * factor,
            "start_cpu_seconds": measured["access"]["start_cpu_seconds"] * factor,
            "access_us": measured["access"]["access_us"],
            "resident_mib": measured["access"]["resident_mib"] * factor,
        },
    }


def show(result: dict[str, Any]) -> str:
    rows: list[list[object]] = [
        [
            "way",
            "build s",
            "build CPU s",
            "start s",
            "start CPU s",
            "access CPU us",
            "process MiB",
            "worker private MiB",
            "before reading",
        ]
    ]
    for name, figures in result["ways"].items():
        access, workers = figures["access"], figures.get("workers")
        label = f"{name} (extrapolated)" if "extrapolated_from_images" in figures else name
        rows.append(
            [
                label,
                f"{figures['build']['seconds']:.1f}",
                f"{figures['build'].get('cpu_seconds', 0):.1f}",
                f"{access['start_seconds']:.3f}",
                f"{access['start_cpu_seconds']:.3f}",
                f"{access['access_us']:.1f}",
                f"{access['resident_mib']:.0f}",
                f"{workers['private_after_mib']:.1f}" if workers else "-",
                f"{workers['private_before_mib']:.1f}" if workers else "-",
            ]
        )
    build = result["ways"]["index"]["build"]
    memory = result["ways"]["index"]["memory"]
    each = memory["held_mib"] * common.MIB / memory["records"]
    head = (
        f"{result['images']} images of {result['kind']} in {result['files']} files, "
        f"{result['file_mib']:.0f} MiB of JSON, a run holds {memory['held_mib']:.1f} MiB ({each:.1f} bytes a record), "
        f"index {result['index_mib']:.0f} MiB, "
        f"build peak {build['peak_mib']:.0f} MiB in the first process; "
        f"{result['machine']['device']}, load {result['machine']['load_before']:.1f}"
    )
    return f"{head}\n{common.table(rows)}"


def _name(options: argparse.Namespace) -> str:
    """What the results are called."""
    plain = options.kind == "coco" and options.files == 1
    return f"index_{options.images}" if plain else f"index_{options.kind}_{options.images}_{options.files}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--kind", choices=WRITERS, default="coco", help="the format of the annotations")
    parser.add_argument("--files", type=int, default=1, help="how many files they are in")
    parser.add_argument("--index-only", action="store_true", help="leave the other ways to hold records out")
    parser.add_argument("--folder", type=Path, help="where the files are written; default: a temporary folder")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        path = options.folder  # of the file, or a pattern of several
        print(json.dumps(MEASURES[options.measure](WAYS[options.way], path, path.parent / "cache")))
        return
    folder = Path(tempfile.mkdtemp(prefix="mmcore-index-", dir=options.folder))
    try:
        result = run(options.images, folder, options.kind, options.files, options.index_only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    smaller = common.RESULTS / "index_118000.json"
    if "json.load" not in result["ways"] and smaller.exists() and not options.index_only:
        extrapolate(result, json.loads(smaller.read_text()))
    print(show(result))
    print(f"written to {common.save(_name(options), result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
