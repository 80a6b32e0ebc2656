"""`mmcore plan` of every published size and stage of every family, offline and without data.

    python bench/plans.py [--plugins glee,visper] [--stages 3]

Wall and CPU seconds and the highest resident memory of each plan, in a process of its own. A plan that ends otherwise
than by telling what is missing stops the benchmark. The aim is 5 seconds and 1.5 GB on a machine with nothing else to
do; the last line says what importing torch and one model of transformers takes, which no plan can go below.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import common
from mmcore.runs.plugin import OpenedPlugin

IMPORTS = "import torch, transformers; from transformers import CLIPTextModel"


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one Python process."""
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # 1: data are not at hand, which a plan tells and ends with.
    if process.returncode not in (0, 1) or "Traceback" in said:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{said[-2000:]}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def published(plugins: list[str]) -> Iterator[tuple[str, str, list[int]]]:
    """Families, their sizes that are no tiny ones, and the numbers of the stages."""
    for name in plugins:
        opened = OpenedPlugin.open(name)
        for variant in opened.family.variants:
            if not variant.startswith("tiny"):
                yield name, variant, [stage.number for stage in opened.stages(variant)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", default=",".join(sorted(point.name for point in entry_points(group="mmcore"))))
    parser.add_argument("--variants", help="these only, with commas between")
    parser.add_argument("--stages", type=int, help="the first so many of each size only")
    options = parser.parse_args()
    rows: list[list[Any]] = [["family", "size", "stages", "wall s", "CPU s", "peak MiB"]]
    found: dict[str, Any] = {"imports": measured(["-c", IMPORTS])}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as nothing:
        measured(
            ["-m", "mmcore", "plan", "--plugin", options.plugins.split(",")[0], "--data", nothing, "--stage", "1"]
        )  # warms the disk
        for plugin, variant, numbers in published(options.plugins.split(",")):
            if options.variants and variant not in options.variants.split(","):
                continue
            kept = numbers[: options.stages]
            order = ["-m", "mmcore", "plan", "--plugin", plugin, "--variant", variant, "--data", nothing, "--stage"]
            times = [measured([*order, str(number)]) for number in kept]
            found[f"{plugin} {variant}"] = dict(zip(kept, times, strict=True))
            wall, cpu, peak = [f"{min(v):.1f}-{max(v):.1f}" for v in zip(*times, strict=True)]
            rows.append([plugin, variant, len(kept), wall, cpu, peak.replace(".0", "")])
            print("  ".join(str(cell) for cell in rows[-1]), file=sys.stderr, flush=True)
    print(common.table(rows))
    wall, cpu, peak = found["imports"]
    print(f"load {load:.1f} to {os.getloadavg()[0]:.1f}")
    print(f"importing torch and CLIP's text model alone: {wall:.1f} s, {cpu:.1f} CPU s, {peak:.0f} MiB")
    print(json.dumps({"written": str(common.save("plans", {"machine": common.machine(), **found}))}))


if __name__ == "__main__":
    main()
