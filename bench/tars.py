"""Pictures in tars beside the same ones in a folder: listing a million members, finding one, reading it.

python bench/tars.py                     # 1 million members of 1 KB in 100 shards: 1.5 GB of disk
python bench/tars.py --members 50000 --shards 5

list       from the tars to the finished index, by as many processes as there are cores
start      opening it in a new process, until the first member is there
find       where one random member is; read: its bytes, the files being in the page cache
folder     the same bytes from files of their own (20 000 of them)
memory     private memory of a process that read 20 000 random members
"""

import argparse
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

READS = 20_000
CONTENT = 1000
"""Bytes of a member; with its header and padding it takes 1,536."""


def name_of(number: int, members: int, shards: int) -> str:
    """As an annotation of SA-1B names a picture."""
    return f"sa_{number * shards // members:06d}/sa_{number}.jpg"


def write(folder: Path, members: int, shards: int) -> None:
    """Shards as SA-1B's: members without a folder, behind "./"."""
    content = random.Random(0).randbytes(CONTENT)
    number = 0
    for shard in range(shards):
        with tarfile.open(folder / f"sa_{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            while number < members and number * shards // members == shard:
                header = tarfile.TarInfo(f"./sa_{number}.jpg")
                header.size = CONTENT
                archive.addfile(header, io.BytesIO(content))
                archive.members.clear()  # type: ignore[attr-defined]
                number += 1
    (folder.parent / "plain").mkdir()
    for plain in range(min(members, READS)):
        (folder.parent / "plain" / f"sa_{plain}.jpg").write_bytes(content)


def opened(folder: Path) -> Any:
    from mmcore.data.pictures import open_images

    return open_images(folder.parent, folder.name, "the benchmark", folder.parent / "cache")


def measure_list(folder: Path, members: int, shards: int) -> dict[str, float]:
    import resource

    from mmcore.data import tar_shards

    tar_shards.PARALLEL_FROM = 0  # members are a hundredth of a picture here
    begin, cpu = time.perf_counter(), time.process_time()
    opened(folder)
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu + helpers.ru_utime + helpers.ru_stime,
        "peak_mib": common.resident("VmHWM") / common.MIB,
        "index_mib": sum(file.stat().st_size for file in (folder.parent / "cache").rglob("*.bin")) / common.MIB,
    }


def measure_read(folder: Path, members: int, shards: int) -> dict[str, float]:
    import mmcore.data.pictures
    from mmcore.data.pictures import bytes_at

    del mmcore
    before = _private()
    begin = time.perf_counter()
    images = opened(folder)
    bytes_at(images, name_of(members // 2, members, shards))
    start = time.perf_counter() - begin
    rng = random.Random(1)
    names = [name_of(rng.randrange(members), members, shards) for _ in range(READS)]
    plain = [f"sa_{rng.randrange(min(members, READS))}.jpg" for _ in range(READS)]
    result = {
        "start_ms": 1000 * start,
        "find_us": _each(images.find, names),
        "read_us": _each(lambda name: bytes_at(images, name), names),
    }
    result["private_mib"] = (_private() - before) / common.MIB
    result["folder_us"] = _each(lambda name: bytes_at(folder.parent / "plain", name), plain)
    return result


def _each(function: Callable[[str], object], names: list[str]) -> float:
    """CPU microseconds of a call."""
    cpu = time.process_time()
    for name in names:
        function(name)
    return (time.process_time() - cpu) / len(names) * 1e6


def _private() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


MEASURES = {"list": measure_list, "read": measure_read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where the files are written; default: a temporary folder")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.folder, options.members, options.shards)))
        return
    root = Path(tempfile.mkdtemp(prefix="mmcore-tars-", dir=options.folder))
    try:
        folder = root / "images"
        folder.mkdir()
        print(f"writing {options.members} members to {folder}", file=sys.stderr)
        write(folder, options.members, options.shards)
        size = ["--members", str(options.members), "--shards", str(options.shards), "--folder", str(folder)]
        result: dict[str, Any] = {"machine": common.machine(), "members": options.members, "shards": options.shards}
        for measure in MEASURES:
            result |= common.in_own_process(__file__, ["--measure", measure, *size])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(common.table([["", "figure"], *[[key, f"{value:.4g}"] for key, value in result.items() if key != "machine"]]))
    print(f"written to {common.save(f'tars_{options.members}', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
